//! Shell: why the server does not start, in the words of its supervisor.

use std::fmt;
use std::io;

use crate::boot::loaders::LoadersError;
use crate::humanize;
use crate::lab::files::Finding;
use crate::os::interfaces::InterfaceError;
use crate::os::sockets::BindError;
use crate::publication::publisher::PublishError;
use crate::roles::dhcp::DhcpError;
use crate::roles::seed::SeedError;

/// Why the server did not start.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Mistakes in the lab's files, each with its place.
    #[error("the lab is not ready to start:{}", Listed(.0))]
    Mistakes(Vec<Finding>),
    /// The network interface.
    #[error(transparent)]
    Interface(#[from] InterfaceError),
    /// DHCP.
    #[error(transparent)]
    Dhcp(DhcpError),
    /// A port.
    #[error("{}{}", humanize::chain(.0), remedy(.0))]
    Bind(BindError),
    /// iPXE.
    #[error(transparent)]
    Loaders(#[from] LoadersError),
    /// The seed.
    #[error(transparent)]
    Seed(SeedError),
    /// The catalog.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// The control socket.
    #[error("cannot create the control socket in state/")]
    Control(#[source] io::Error),
    /// The role has nothing to do.
    #[error(
        "server.toml says `mode = \"off\"` below [dhcp], so the role dhcp has \
         nothing to do; leave it out, or choose another mode"
    )]
    NoDhcp,
}

impl From<BindError> for RunError {
    fn from(error: BindError) -> Self {
        Self::Bind(error)
    }
}

impl From<DhcpError> for RunError {
    fn from(error: DhcpError) -> Self {
        match error {
            DhcpError::Bind(error) => Self::Bind(error),
            other => Self::Dhcp(other),
        }
    }
}

impl From<SeedError> for RunError {
    fn from(error: SeedError) -> Self {
        match error {
            SeedError::Bind(error) => Self::Bind(error),
            other => Self::Seed(other),
        }
    }
}

/// How to give the rights that are missing, on this machine.
fn remedy(error: &BindError) -> String {
    match (error, std::env::current_exe()) {
        (BindError::Forbidden { .. }, Ok(program)) => format!(
            ": `setcap cap_net_bind_service,cap_net_raw+ep {}`, once, as root",
            program.display()
        ),
        _ => String::new(),
    }
}

/// Findings, one to a line.
struct Listed<'a>(&'a [Finding]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|finding| write!(f, "\n  {finding}"))
    }
}
