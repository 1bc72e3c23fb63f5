//! The line of one device: an uplink, watched, from the first message that waits to the end of the last.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::ends::{Settle, Source};
use super::queue::{Device, Phase};
use super::register::Verdict;
use super::{LONGEST_PAUSE, OwnIdentity, Shared, WINDOW};
use crate::hub::accounts::{Account, Accounts, NoAccount};
use crate::hub::connection_string::{Auth, ConnectionString};
use crate::hub::refused::brief;
use crate::outbound::Way;
use crate::uplink::{self, HubRate, HubTarget, Status, Target, Unassigned, WindowSize, tls};

/// Refusals in a row after which a device that was never let in counts as refused. The first may be chance.
const REFUSALS: u32 = 2;
/// A line that ends waits for that so long at most.
const LAST: Duration = Duration::from_secs(5);
/// Tokens live so much shorter at most, so that a thousand of them are not renewed in one moment.
const SPREAD: f64 = 0.2;

/// Who a line is.
enum Identity {
    Own(Arc<dyn OwnIdentity>),
    Device { target: Box<Target>, id: Arc<str>, accounts: Arc<dyn Accounts> },
}

/// The reason of a line that has nowhere to go any more.
const GONE: &str = "hub_gone";

impl uplink::Credentials for Identity {
    async fn target(&self) -> Result<Target, Unassigned> {
        match self {
            Self::Own(own) => own.target().await,
            Self::Device { id, accounts, .. } if accounts.is_gone(id).await => {
                let text = "the name of its hub is gone, the provisioning service is asked for another".to_owned();
                Err(Unassigned { reason: GONE, text, pause: LAST })
            }
            Self::Device { target, .. } => Ok((**target).clone()),
        }
    }

    fn accepted(&self) {
        if let Self::Own(own) = self {
            own.accepted();
        }
    }

    fn refused(&self) {
        if let Self::Own(own) = self {
            own.refused();
        }
    }

    fn unreachable(&self) {
        match self {
            Self::Own(own) => own.unreachable(),
            Self::Device { target, id, accounts } if is_found_by_its_name(target) => accounts.unreachable(id),
            Self::Device { .. } => {}
        }
    }
}

/// Otherwise the name of the hub leads nowhere anyway.
fn is_found_by_its_name(target: &Target) -> bool {
    matches!(target, Target::Hub(hub) if hub.way.address.is_none() && hub.connection.gateway.is_none())
}

/// Why a line ended.
enum Why {
    /// The program ends.
    Stopped,
    /// Nothing waits.
    Resting,
    /// Another device gets the place.
    Asked,
    /// Its hub is there no more.
    Gone,
    /// The hub does not let it in.
    Refused(String),
    /// Nobody knows its hub and its credentials.
    Unknown(NoAccount),
}

/// Runs the line of a device that has a place.
pub(super) async fn run(shared: Arc<Shared>, device: Arc<Device>) {
    let leave = device.begin();
    let why = serve(&shared, &device, &leave).await;
    device.end();
    shared.uses_nothing(&device);
    let mut again = false;
    match why {
        Why::Stopped => {}
        Why::Resting | Why::Asked | Why::Gone => {
            let mut state = device.state();
            shared.set_phase(&mut state, Phase::Idle);
            again = !state.is_resting();
            state.release();
        }
        Why::Refused(text) => {
            shared.options.plan.accounts.refused(&device.id);
            refused(&shared, &device, NoAccount::new(text));
        }
        Why::Unknown(why) => refused(&shared, &device, why),
    }
    let verdict = shared.verdict(&device);
    if verdict != Verdict::Allowed {
        again = !shared.keep_out(&device, verdict);
    }
    shared.leave(leave.is_cancelled());
    if again {
        shared.want(&device);
    }
    shared.wake.notify_one();
}

async fn serve(shared: &Arc<Shared>, device: &Arc<Device>, leave: &CancellationToken) -> Why {
    if shared.verdict(device) != Verdict::Allowed {
        return Why::Asked;
    }
    let target = tokio::select! {
        target = shared.target(device) => target,
        () = shared.stop.cancelled() => return Why::Stopped,
    };
    let target = match target {
        Ok(target) => target,
        Err(why) => return Why::Unknown(why),
    };
    let template = &shared.options.uplink;
    let options = uplink::Options {
        target: Target::Hub(target),
        window: match template.window {
            WindowSize::Auto if !device.is_own() => WindowSize::Fixed(WINDOW),
            window => window,
        },
        // The dispatcher sees to lanes and pace, for all devices together.
        hub_rate: HubRate::default(),
        live_first: false,
        crowd: Some(Arc::clone(&shared.crowd)),
        // The certificate that is watched is the bridge's own.
        renew: if device.is_own() { Arc::clone(&template.renew) } else { Arc::default() },
        ..template.clone()
    };
    let stop = shared.stop.child_token();
    // What was told of it before is not told in full again.
    let trouble = device.state().trouble.clone();
    let (status, seen) = watch::channel(Status { trouble, ..Status::default() });
    let settle = Settle { shared: Arc::clone(shared), device: Arc::clone(device) };
    let metrics = shared.metrics.of_one_of_many();
    let identity = match device.is_own() {
        true => Identity::Own(Arc::clone(&shared.options.identity)),
        false => Identity::Device {
            target: Box::new(options.target.clone()),
            id: Arc::clone(&device.id),
            accounts: Arc::clone(&shared.options.plan.accounts),
        },
    };
    let run = uplink::run((options, identity), (Source(Arc::clone(device)), settle), metrics, status, stop.clone());
    let mut run = std::pin::pin!(run);
    let why = tokio::select! {
        () = &mut run => return Why::Stopped,
        why = watch_over(shared, device, seen) => why,
        () = leave.cancelled() => Why::Asked,
        never = shared.refill(device) => match never {},
    };
    stop.cancel();
    run.await;
    why
}

/// Watches a line; returns when it is to end.
async fn watch_over(shared: &Shared, device: &Device, mut seen: watch::Receiver<Status>) -> Why {
    let patience = shared.options.plan.idle_timeout;
    let is_kept = || device.is_own() && shared.options.plan.keep_own.load(Ordering::Relaxed);
    let mut failures = 0;
    loop {
        let resting = device.rests_since().filter(|_| !is_kept());
        let idle_at = resting.unwrap_or_else(Instant::now) + patience;
        tokio::select! {
            changed = seen.changed() => if changed.is_err() {
                return std::future::pending().await;
            },
            () = tokio::time::sleep_until(idle_at.into()) => match device.rests_since() {
                Some(since) if !is_kept() && since.elapsed() >= patience => return Why::Resting,
                _ => continue,
            },
        }
        let status = seen.borrow_and_update().clone();
        if device.expiry() != status.expiry {
            shared.uses(device, status.expiry);
        }
        if let Some(since) = status.connected {
            if !device.is_own() {
                shared.options.plan.accounts.accepted(&device.id);
                shared.was_let_in(device);
            }
            let mut state = device.state();
            shared.set_phase(&mut state, Phase::Connected(since));
            (state.refusals, state.pause, state.trouble) = (0, Duration::ZERO, None);
            continue;
        }
        let mut state = device.state();
        shared.set_phase(&mut state, Phase::Connecting);
        if status.renewing && !is_kept() && state.may_rest() {
            return Why::Resting;
        }
        if status.failures == failures {
            continue;
        }
        failures = status.failures;
        state.trouble.clone_from(&status.trouble);
        *shared.trouble.lock() = status.reason.zip(status.trouble.clone());
        if status.reason == Some(GONE) {
            return Why::Gone;
        }
        if status.reason == Some("refused") && !device.is_own() {
            state.refusals += 1;
            if state.refusals >= REFUSALS {
                return Why::Refused(status.trouble.unwrap_or_default());
            }
        }
        if !is_kept() && state.may_rest() {
            return Why::Resting;
        }
    }
}

/// The device is not let in: it is left alone for a while, and what waits for it gets another way.
pub(super) fn refused(shared: &Shared, device: &Arc<Device>, why: NoAccount) {
    let NoAccount { text, pause, is_its_own } = why;
    let now = Instant::now();
    let (shortest, longest) = shared.options.uplink.backoff;
    let mut state = device.state();
    let known = state.pause > Duration::ZERO;
    let pause = pause.unwrap_or_else(|| (state.pause * 2).clamp(shortest, longest * LONGEST_PAUSE));
    (state.pause, state.is_its_own) = (pause, is_its_own);
    state.refusals = state.refusals.max(REFUSALS);
    shared.set_phase(&mut state, Phase::Refused(now + pause.mul_f64(rand::random_range(0.75..=1.0))));
    if !known {
        let text = if state.trouble.as_ref() == Some(&text) { brief(&text) } else { &text };
        shared.metrics.log_pace_of("not let in", &device.id, |left_out| {
            tracing::warn!(
                device = &*device.id,
                left_out,
                "a device is not let in: {text}; tried again in {pause:.0?}"
            );
        });
    }
    state.trouble = Some(text);
    if is_its_own && !shared.lets_in() {
        return; // Nobody is let in: this says nothing about the device.
    }
    shared.leave_queue(device, &mut state);
}

impl Shared {
    /// Where the line of a device goes; `Err` says why that is not known.
    async fn target(&self, device: &Device) -> Result<HubTarget, NoAccount> {
        let own = &self.options.plan.own;
        if device.is_own() {
            return Ok(own.clone());
        }
        let Account { connection, model_id, certificate } = self.options.plan.accounts.of(&device.id).await?;
        let (mut tls, mut certificate_expiry) = (self.options.plan.trust.client(), None);
        if let Some(certificate) = certificate {
            let pem = |error: tls::TlsError| NoAccount::new(format!("its certificate cannot be used: {error}"));
            let chain = tls::certificates(&certificate.chain).map_err(pem)?;
            let key = tls::private_key(certificate.key.expose().as_bytes()).map_err(pem)?;
            certificate_expiry = chain.first().and_then(|leaf| crate::hub::certificate::expiry(leaf));
            tls = tls::client(self.options.plan.trust.roots(), Some((chain, key))).map_err(pem)?;
        } else if matches!(connection.auth, Auth::X509) {
            return Err(NoAccount::new("its connection string says x509=true, but there is no certificate for it"));
        }
        let same_hub = connection.host == own.connection.host;
        let of_own = || own.connection.gateway.clone().filter(|_| same_hub);
        let gateway = connection.gateway.clone().or_else(of_own).or_else(|| self.options.plan.gateway.clone());
        let shorter = 1.0 - rand::random_range(0.0..SPREAD);
        Ok(HubTarget {
            connection: ConnectionString { gateway, ..connection },
            tls,
            transport: own.transport.clone(),
            way: Way {
                address: own.way.address.clone().filter(|_| same_hub || self.options.plan.one_address),
                ..own.way.clone()
            },
            certificate_expiry,
            model_id,
            token_lifetime: own.token_lifetime.mul_f64(shorter),
            gateway: false,
        })
    }
}
