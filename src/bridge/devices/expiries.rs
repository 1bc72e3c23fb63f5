//! When what devices connect with ends: of each line that is there what it uses, of the other devices what their files
//! have.
//!
//! The moments are kept in order, so that the first of them, and those that are near, are found without a walk over all
//! devices.

use std::collections::BTreeMap;

use crate::uplink::Expiry;

/// In seconds: so near an end wants somebody to act.
pub(super) const SOON: i64 = 7 * 24 * 3_600;

/// What ends next of all that devices connect with, seconds since 1970.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Next {
    pub(super) token: Option<i64>,
    pub(super) certificate: Option<i64>,
    /// Devices that will be refused within [`SOON`] if nobody does anything.
    pub(super) soon: u64,
}

/// See the module documentation.
#[derive(Debug, Default)]
pub(super) struct Expiries {
    /// Tokens in use, renewed or not.
    tokens: Moments,
    /// Certificates in use.
    certificates: Moments,
    /// When each line will be refused.
    lines: Moments,
    /// Certificates in files whose devices have no line.
    files: Moments,
}

impl Expiries {
    /// A line uses something else than before.
    pub(super) fn replace(&mut self, before: Expiry, after: Expiry) {
        self.with(before, Moments::remove);
        self.with(after, Moments::add);
    }

    fn with(&mut self, expiry: Expiry, change: impl Fn(&mut Moments, i64)) {
        let first = expiry.given.into_iter().chain(expiry.certificate).min();
        for (moments, moment) in
            [(&mut self.tokens, expiry.token()), (&mut self.certificates, expiry.certificate), (&mut self.lines, first)]
        {
            moment.into_iter().for_each(|moment| change(moments, moment));
        }
    }

    /// The certificate in a device's file is in use from now on, or no longer.
    pub(super) fn file_in_use(&mut self, ends: i64, in_use: bool) {
        if in_use {
            self.files.remove(ends);
        } else {
            self.files.add(ends);
        }
    }

    /// These are the certificates in files now, but for those in use.
    pub(super) fn set_files(&mut self, ends: impl IntoIterator<Item = i64>) {
        self.files = Moments::default();
        ends.into_iter().for_each(|ends| self.files.add(ends));
    }

    /// What ends next.
    pub(super) fn next(&self, now: i64) -> Next {
        let certificates = [&self.certificates, &self.files].into_iter().filter_map(Moments::first);
        Next {
            token: self.tokens.first(),
            certificate: certificates.min(),
            soon: self.lines.before(now + SOON) + self.files.before(now + SOON),
        }
    }
}

/// Moments in order, and how many are at each.
#[derive(Debug, Default)]
struct Moments(BTreeMap<i64, u64>);

impl Moments {
    fn add(&mut self, moment: i64) {
        *self.0.entry(moment).or_default() += 1;
    }

    fn remove(&mut self, moment: i64) {
        if let Some(count) = self.0.get_mut(&moment) {
            *count -= 1;
            if *count == 0 {
                self.0.remove(&moment);
            }
        }
    }

    fn first(&self) -> Option<i64> {
        self.0.keys().next().copied()
    }

    fn before(&self, moment: i64) -> u64 {
        self.0.range(..moment).map(|(_, count)| count).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ends_next() {
        let renewed = |at| Expiry { minted: Some(at), ..Expiry::default() };
        let given = |at| Expiry { given: Some(at), ..Expiry::default() };
        let certificate = |at| Expiry { certificate: Some(at), ..Expiry::default() };
        let far = 100 + SOON;
        for (lines, files, token, own, soon) in [
            (vec![], vec![], None, None, 0),
            (vec![Expiry::default()], vec![], None, None, 0),
            (vec![renewed(110), renewed(105), renewed(3_700)], vec![], Some(105), None, 0),
            (vec![given(far), given(far - 1), renewed(far + 9)], vec![], Some(far - 1), None, 1),
            (vec![certificate(far + 5), certificate(50), renewed(200)], vec![], Some(200), Some(50), 1),
            (vec![certificate(101), certificate(102), given(103)], vec![], Some(103), Some(101), 3),
            (vec![certificate(102)], vec![101, 101, far], None, Some(101), 3),
        ] {
            let mut expiries = Expiries::default();
            lines.iter().for_each(|expiry| expiries.replace(Expiry::default(), *expiry));
            expiries.set_files(files.iter().copied());
            assert_eq!(expiries.next(100), Next { token, certificate: own, soon }, "{lines:?} {files:?}");
            // Lines end, and files are used.
            lines.iter().for_each(|expiry| expiries.replace(*expiry, Expiry::default()));
            files.iter().for_each(|ends| expiries.file_in_use(*ends, true));
            assert_eq!(expiries.next(100), Next::default(), "{lines:?} {files:?}");
            files.iter().for_each(|ends| expiries.file_in_use(*ends, false));
            assert_eq!(expiries.next(100).certificate, files.iter().min().copied(), "{lines:?} {files:?}");
        }
    }
}
