//! A room of simulated links and simulated time around the real [`bt_swarm::swarm::Swarm`].
//!
//! Every node and seed of a simulation is the very state that the engine runs; only what surrounds
//! it is made up: links with rates, the queue of a switch's port, a tracker, a clock. So a figure
//! of a simulation says what the decisions of the cores are worth, without the noise of a busy
//! machine.
//!
//! Simplifications: a link carries one packet of a block (16 KiB) after the other; TCP is a window
//! of 128 KiB that shrinks to one block where a port's queue is long; nothing is lost; headers of
//! TCP and below cost nothing; hashing goes on at 1 GB/s per node.

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
