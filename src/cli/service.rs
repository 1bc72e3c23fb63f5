//! What `brownbridge run` tells systemd (sd_notify): ready, reloading, stopping, how it is, and that it lives.
//!
//! Without systemd all of it does nothing.

use std::time::Duration;

use sd_notify::NotifyState;

use crate::app::Pulse;

/// How often the status text is looked at.
const EVERY: Duration = Duration::from_secs(10);
/// Time beyond the longest stop before systemd may lose patience.
const SPARE: Duration = Duration::from_secs(10);

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(false, states) {
        tracing::debug!("systemd cannot be told: {error}");
    }
}

/// Everything is there.
pub(super) fn ready() {
    tell(&[NotifyState::Ready]);
}

/// Files are being looked at; to be followed by [`ready`].
pub(super) fn reloading() {
    let mut states = vec![NotifyState::Reloading];
    states.extend(NotifyState::monotonic_usec_now());
    tell(&states);
}

/// The end has begun, and takes this long at most.
pub(super) fn stopping(longest: Duration) {
    let extend = u32::try_from((longest + SPARE).as_micros()).unwrap_or(u32::MAX);
    tell(&[NotifyState::Stopping, NotifyState::ExtendTimeoutUsec(extend)]);
}

/// Feeds the watchdog while the parts make progress, and tells how the bridge is. Never returns.
pub(super) async fn keep_told(mut pulse: Pulse) {
    let mut micros = 0;
    let watchdog = sd_notify::watchdog_enabled(false, &mut micros).then(|| Duration::from_micros(micros));
    let mut tick = tokio::time::interval(watchdog.map_or(EVERY, |watchdog| (watchdog / 3).min(EVERY)));
    let mut told = String::new();
    loop {
        tick.tick().await;
        match pulse.beat().await {
            Ok(()) if watchdog.is_some() => tell(&[NotifyState::Watchdog]),
            Ok(()) => {}
            Err(why) => tracing::error!("{why}: the watchdog is not fed"),
        }
        let status = pulse.status().replace('\n', " ");
        if status != told {
            tell(&[NotifyState::Status(&status)]);
            told = status;
        }
    }
}
