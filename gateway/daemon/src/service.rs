//! Tells a service manager how the process is (`sd_notify(3)`). Without one nothing happens.

use std::time::Duration;

use sd_notify::NotifyState;

/// Everything is ready.
pub fn ready() {
    tell(&[NotifyState::Ready, NotifyState::Status("The gateway is running.")]);
}

/// The configuration is read again; [`ready`] follows.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(_) => tell(&[NotifyState::Reloading]),
    }
}

/// The end has begun.
pub fn stopping() {
    tell(&[NotifyState::Stopping, NotifyState::Status("The gateway is shutting down.")]);
}

/// All parts are alive.
pub fn alive() {
    tell(&[NotifyState::Watchdog]);
}

/// How often the manager wants to be told [`alive`], with half of its patience left.
pub fn pace() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|patience| patience / 2)
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(error = &error as &dyn std::error::Error, "The service manager was not told.");
    }
}
