//! The operating system's randomness, drawn here so that pure crates need not.

/// `N` random bytes.
///
/// # Panics
/// When the operating system has no randomness to give: no key made then would be a secret.
#[must_use]
#[expect(
    clippy::expect_used,
    reason = "without randomness no secret can be made, and none must be"
)]
pub fn bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).expect("the operating system gives random bytes");
    bytes
}
