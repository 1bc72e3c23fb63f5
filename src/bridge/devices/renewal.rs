//! New files of the devices, taken up while they run.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustls::RootCertStore;

use super::Devices;
use super::queue::Phase;
use super::register::Verdict;
use crate::fence::Name;
use crate::uplink::tls;

/// What came of new files, in devices that have named themselves.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Renewed {
    /// Held before, and may connect now.
    pub let_in: usize,
    /// Could connect before, and are held now.
    pub removed: usize,
    /// Connect with something else from now on.
    pub changed: usize,
}

impl Devices {
    /// From now on these roots are trusted: every line ends, and what has something to send connects anew, paced as always.
    pub fn trust(&self, roots: Arc<RootCertStore>) -> Result<(), tls::TlsError> {
        let shared = &self.0;
        shared.options.plan.trust.replace(roots)?;
        shared.crowd.begin_anew();
        for device in shared.all().iter().filter(|device| !device.is_own()) {
            device.ask_to_leave();
        }
        shared.wake.notify_one();
        Ok(())
    }

    /// From now on these ids may connect, by pattern and by name. Who may now does, who may no longer ends, and whose
    /// credentials `changed` connects anew. What they connect with has been replaced before.
    pub fn take_up(&self, (allow, table): (Vec<Name>, HashSet<String>), changed: impl Fn(&str) -> bool) -> Renewed {
        let shared = &self.0;
        shared.register.lock().replace(allow, table);
        shared.files_changed.store(true, Ordering::Relaxed);
        let mut renewed = Renewed::default();
        for device in shared.all().iter().filter(|device| !device.is_own()) {
            let verdict = shared.verdict(device);
            let phase = device.state().phase;
            match (phase, verdict) {
                (Phase::Held, Verdict::Allowed) => {
                    shared.let_in(device);
                    renewed.let_in += 1;
                }
                (Phase::Held | Phase::Denied, _) | (_, Verdict::Denied) => {}
                (_, Verdict::Unknown) => {
                    if !shared.keep_out(device, verdict) {
                        device.ask_to_leave();
                    }
                    renewed.removed += 1;
                }
                (_, Verdict::Allowed) if changed(&device.id) => {
                    renewed.changed += 1;
                    if matches!(phase, Phase::Refused(_) | Phase::Registering) {
                        shared.options.plan.accounts.ask_anew(&device.id);
                    }
                    if let Phase::Refused(_) = phase {
                        shared.let_in(device);
                    } else {
                        device.ask_to_leave();
                    }
                }
                (_, Verdict::Allowed) => {}
            }
        }
        shared.wake.notify_one();
        renewed
    }
}
