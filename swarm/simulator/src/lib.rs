//! A room of simulated links and simulated time around the real [`bt_swarm::swarm::Swarm`].
//!
//! Every node and seed of a simulation is the very state that the engine runs. Only what surrounds
//! it is simulated: links with rates, the queue of a switch's port, a tracker, a clock. So a figure
//! shows what the decisions of the cores are worth, without the noise of a busy machine.
//!
//! Simplifications: a link carries one packet of a block (16 KiB) after the other; TCP is a window
//! of 128 KiB that shrinks to one block if a port's queue is long; no packet is lost; headers of
//! TCP and below cost nothing; each node hashes 1 GB/s.

mod events;
mod links;
mod machine;
mod random;
mod scenario;
mod stream;
mod tracker;
mod world;

pub use scenario::{
    CURVE_STEP, Finish, Harm, Host, Network, Outage, Outcome, Role, Scenario, WhenDone,
};
pub use world::run;

#[cfg(test)]
mod tests;
