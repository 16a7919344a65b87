//! The node's tests from outside, in one program: linking one takes as long as running them.

mod journey;
mod screens;
