//! How old, or how far in the future, a signed request may be.
//!
//! A request that is authenticated by a signature instead of a TLS client certificate carries the time it was made. It is
//! accepted inside a window around the server's clock (machines' clocks differ), and, if it changes anything, only when it is
//! newer than the last one of the same node ([`crate::core::registry`] keeps that number).

use std::time::Duration;

use warren_identity::UnixMillis;

/// Five minutes: the skew that Kerberos made customary; beyond it certificates start to fail as well.
pub const DEFAULT_WINDOW: Duration = Duration::from_secs(300);

/// Why a signed request is out of its window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OutOfWindow {
    /// Older than the window: replayed, delayed, or made by a slow clock.
    #[error("the request was signed {0:?} ago, more than allowed; check this machine's clock")]
    Stale(Duration),
    /// From the future: made by a fast clock.
    #[error("the request was signed {0:?} in the future; check this machine's clock")]
    Future(Duration),
}

/// Whether a request signed at `issued_at` may be served at `now`.
///
/// # Errors
/// [`OutOfWindow`] with how far off it is.
pub fn check(issued_at: UnixMillis, now: UnixMillis, window: Duration) -> Result<(), OutOfWindow> {
    let age = now.since(issued_at);
    if age > window {
        return Err(OutOfWindow::Stale(age));
    }
    let ahead = issued_at.since(now);
    if ahead > window {
        return Err(OutOfWindow::Future(ahead));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    const NOW: UnixMillis = UnixMillis(1_700_000_000_000);
    const WINDOW: Duration = Duration::from_secs(300);

    #[test]
    fn a_request_at_the_edge_of_the_window_is_served() {
        assert_eq!(check(NOW.minus(WINDOW), NOW, WINDOW), Ok(()));
        assert_eq!(check(NOW.plus(WINDOW), NOW, WINDOW), Ok(()));
    }

    #[test]
    fn a_clock_three_days_off_is_named_with_its_distance() {
        let days = Duration::from_secs(3 * 86_400);
        assert_eq!(
            check(NOW.minus(days), NOW, WINDOW),
            Err(OutOfWindow::Stale(days))
        );
        assert_eq!(
            check(NOW.plus(days), NOW, WINDOW),
            Err(OutOfWindow::Future(days))
        );
    }
}
