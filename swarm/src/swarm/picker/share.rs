//! Core: pseudo-random numbers from a seed, and which node's share a piece is.

/// Whether a piece belongs to the share of another node: that with the highest hash of node and
/// piece.
///
/// This is rendezvous hashing: all nodes compute the same shares without a message, and when a node
/// leaves, only its own share is distributed again.
pub(super) fn is_share_of_another(piece: u32, own_salt: u64, rivals: &[u64]) -> bool {
    let rank = |salt: u64| mix(salt ^ u64::from(piece));
    let own = rank(own_salt);
    rivals.iter().any(|salt| rank(*salt) > own)
}

/// A pseudo-random number: the finaliser of SplitMix64.
pub(super) fn mix(number: u64) -> u64 {
    let mut x = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// The next number; `state` moves on.
pub(super) fn next_random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(1);
    mix(*state)
}
