//! The fence at the broker's gate: the users and access files in use, reloading them, and learning.
//!
//! A decision is made at CONNECT and kept with the connection; a reload makes a new generation, and each connection
//! asks again at its next publish or subscription. Connections survive a reload; subscriptions made before it stay.
//!
//! Passwords are verified on blocking threads, at most `VERIFICATIONS` at a time. What was verified once is
//! remembered as a keyed hash, so that a thousand clients that come back at once need not be hashed again.

use std::collections::HashSet;
use std::fmt;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hmac::{Hmac, Mac};
use parking_lot::{Mutex, RwLock};
use sha2::Sha256;
use tokio::sync::Semaphore;

use super::text_file;
use crate::broker::{Gate, Judgement, Pass, Refusal, RefusalCode, Visitor};
use crate::diag::{Diagnostic, SourceFile};
use crate::fence::Caller;
use crate::fence::access::Access;
use crate::fence::learn::{Action, Notebook};
use crate::fence::rights::{Refused, Rights};
use crate::fence::users::{self, Users};
use crate::secret::Secret;

/// Passwords verified at one time: each takes a core and 19 MiB.
const VERIFICATIONS: usize = 2;
/// Verified passwords remembered.
const REMEMBERED: usize = 4_096;
/// Topics of one connection noted without asking the notebook again.
const NOTED: usize = 1_024;

/// The files of the fence, and whether clients without a user may come in.
#[derive(Debug, Clone)]
pub struct Files {
    /// The access file.
    pub access: Option<PathBuf>,
    /// The users file.
    pub users: Option<PathBuf>,
    /// Where to write what is learned.
    pub learn: Option<PathBuf>,
    /// True where clients without a user may come in.
    pub anonymous: bool,
}

/// What the files say.
#[derive(Debug, Default)]
pub struct Policy {
    access: Option<Access>,
    users: Option<Users>,
    anonymous: bool,
}

/// What reading the files came to.
pub struct Read {
    /// There only without errors.
    pub policy: Option<Policy>,
    /// What was found wrong or doubtful.
    pub found: Vec<Diagnostic>,
    /// The files the findings point into.
    pub sources: Vec<SourceFile>,
}

impl Files {
    /// True where there is nothing to judge by.
    pub fn is_empty(&self) -> bool {
        self.access.is_none() && self.users.is_none() && self.learn.is_none()
    }

    /// Reads the files; findings count them from `first`. A file that cannot be read is a finding without a place.
    pub fn read(&self, first: usize) -> Read {
        let mut read = Read { policy: None, found: Vec::new(), sources: Vec::new() };
        let users = self.users.as_ref().map(|path| {
            let text = read.open(first, path)?;
            let (users, found) = Users::parse(first + read.sources.len(), &text);
            read.found.extend(found);
            read.sources.push(SourceFile { path: path.display().to_string(), text: users::masked(&text) });
            users
        });
        let access = self.access.as_ref().map(|path| {
            let text = read.open(first, path)?;
            let file = first + read.sources.len();
            let (access, found) = Access::parse(file, &text);
            read.found.extend(found);
            // Users with mistakes would make everybody unknown.
            if let (Some(access), None | Some(Some(_))) = (&access, &users) {
                let users = users.as_ref().and_then(Option::as_ref);
                read.found.extend(access.check_users(file, users));
            }
            read.sources.push(SourceFile { path: path.display().to_string(), text });
            access
        });
        read.policy = match (users, access) {
            (Some(None), _) | (_, Some(None)) => None,
            (users, access) => {
                Some(Policy { access: access.flatten(), users: users.flatten(), anonymous: self.anonymous })
            }
        };
        read
    }
}

impl Files {
    /// The notebook that goes on with what was learned before; none where nothing is to be learned. A file that is
    /// there and no access file is a finding: it would be overwritten.
    pub fn notebook(&self, first: usize, read: &mut Read) -> Option<Notebook> {
        let path = self.learn.as_ref().filter(|path| path.exists());
        let Some(path) = path else { return self.learn.as_ref().map(|_| Notebook::default()) };
        let text = read.open(first, path)?;
        let file = first + read.sources.len();
        let (access, found) = Access::parse(file, &text);
        read.found.extend(found.into_iter().filter(Diagnostic::is_error));
        if access.as_ref().is_some_and(|access| !access.only_allows()) {
            let found =
                Diagnostic::error("learning", "this file has [[deny]] or [[bind]]: learning would lose them", file);
            read.found.push(found.help("learn into another file, and copy what you want from it"));
        }
        read.sources.push(SourceFile { path: path.display().to_string(), text });
        access.map(|access| Notebook::resume(&access))
    }
}

impl Read {
    fn open(&mut self, first: usize, path: &Path) -> Option<String> {
        text_file::read(path)
            .inspect_err(|error| {
                let title = text_file::cannot_read(path, error);
                self.found.push(Diagnostic::error("no-such-file", title, first + self.sources.len()));
                self.sources.push(SourceFile { path: path.display().to_string(), text: String::new() });
            })
            .ok()
    }
}

/// The gate over the files in use.
#[derive(Clone)]
pub struct Keeper(Arc<Inner>);

struct Inner {
    policy: RwLock<Arc<Policy>>,
    generation: AtomicU64,
    verifying: Arc<Semaphore>,
    /// Keyed hashes of what was verified, and their key.
    verified: Mutex<HashSet<[u8; 32]>>,
    key: [u8; 32],
    notebook: Option<Mutex<Notebook>>,
}

impl fmt::Debug for Keeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keeper(..)")
    }
}

impl Keeper {
    /// Keeps the gate by a policy; with a notebook it learns and enforces no access.
    pub fn new(policy: Policy, notebook: Option<Notebook>) -> Self {
        Self(Arc::new(Inner {
            policy: RwLock::new(Arc::new(policy)),
            generation: AtomicU64::new(0),
            verifying: Arc::new(Semaphore::new(VERIFICATIONS)),
            verified: Mutex::default(),
            key: rand::random(),
            notebook: notebook.map(Mutex::new),
        }))
    }

    /// Goes on with another policy.
    pub fn replace(&self, policy: Policy) {
        *self.0.policy.write() = Arc::new(policy);
        self.0.generation.fetch_add(1, Ordering::Release);
    }

    /// The access file learned so far, where it differs from the last one taken.
    pub fn learned(&self) -> Option<String> {
        self.0.notebook.as_ref()?.lock().take_changes()
    }

    fn policy(&self) -> Arc<Policy> {
        Arc::clone(&self.0.policy.read())
    }

    /// The user a visitor proves to be; none for one without a user name, or where there are no users.
    async fn identify(&self, visitor: &mut Visitor) -> Result<Option<String>, Refusal> {
        let policy = self.policy();
        let Some(users) = &policy.users else { return Ok(None) };
        let Some(name) = visitor.user.take() else {
            let refusal = Refusal { code: RefusalCode::NotAuthorized, label: "anonymous" };
            return if policy.anonymous { Ok(None) } else { Err(refusal) };
        };
        let hash = users.hash(&name);
        let password = visitor.password.take().unwrap_or_default();
        let proof = self.proof(&hash, &password);
        if self.0.verified.lock().contains(&proof) {
            return Ok(Some(name));
        }
        let refusal = Refusal { code: RefusalCode::BadUserNameOrPassword, label: "bad_user_name_or_password" };
        let Ok(permit) = Arc::clone(&self.0.verifying).acquire_owned().await else { return Err(refusal) };
        let verified = tokio::task::spawn_blocking(move || {
            let verified = users::verify(&hash, &password);
            drop(permit);
            verified
        });
        if !verified.await.unwrap_or(false) {
            return Err(refusal);
        }
        let mut remembered = self.0.verified.lock();
        if remembered.len() >= REMEMBERED {
            remembered.clear();
        }
        remembered.insert(proof);
        Ok(Some(name))
    }

    /// A value only this process can make of a hash and its password.
    fn proof(&self, hash: &Secret, password: &[u8]) -> [u8; 32] {
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&self.0.key) else { return rand::random() };
        for part in [hash.expose().as_bytes(), b"\0", password] {
            mac.update(part);
        }
        mac.finalize().into_bytes().into()
    }
}

impl Gate for Keeper {
    fn admit(&self, mut visitor: Visitor) -> Judgement<'_> {
        Box::pin(async move {
            let user = self.identify(&mut visitor).await?;
            let mut ticket = Ticket {
                keeper: self.clone(),
                client: visitor.client,
                assigned: visitor.assigned,
                user,
                address: visitor.address,
                generation: self.0.generation.load(Ordering::Acquire),
                rights: None,
                changed: false,
                noted: HashSet::new(),
            };
            ticket.rights = ticket.judge().map_err(|refused| Refusal {
                code: RefusalCode::NotAuthorized,
                label: match refused {
                    Refused::BoundElsewhere => "client_id_bound_elsewhere",
                    Refused::Denied => "denied",
                    Refused::NotAllowed => "not_allowed",
                },
            })?;
            if let Some(notebook) = &self.0.notebook {
                notebook.lock().connected(&ticket.caller(), ticket.assigned);
            }
            Ok(Box::new(ticket) as Box<dyn Pass>)
        })
    }
}

/// What one connected client may do.
struct Ticket {
    keeper: Keeper,
    client: String,
    assigned: bool,
    user: Option<String>,
    address: IpAddr,
    generation: u64,
    /// None where everything is allowed.
    rights: Option<Rights>,
    /// The rights are others than when this was last asked.
    changed: bool,
    noted: HashSet<u64>,
}

impl Ticket {
    fn caller(&self) -> Caller<'_> {
        Caller { client: &self.client, user: self.user.as_deref(), address: self.address }
    }

    fn judge(&self) -> Result<Option<Rights>, Refused> {
        let policy = self.keeper.policy();
        let gone = |user: &String| policy.users.as_ref().is_none_or(|users| users.names().all(|name| name != user));
        match &policy.access {
            _ if self.user.as_ref().is_some_and(gone) => Err(Refused::NotAllowed),
            Some(access) if self.keeper.0.notebook.is_none() => access.rights(&self.caller()).map(Some),
            _ => Ok(None),
        }
    }

    /// Asks again after a reload. Who would not be let in now may do nothing more.
    fn renew(&mut self) {
        let generation = self.keeper.0.generation.load(Ordering::Acquire);
        if generation != self.generation {
            self.generation = generation;
            self.rights = self.judge().unwrap_or_else(|_| Some(Rights::default()));
            self.changed = true;
        }
    }

    fn note(&mut self, action: Action, topic: &str) {
        let Some(notebook) = &self.keeper.0.notebook else { return };
        let mut hasher = DefaultHasher::new();
        (action == Action::Publish, topic).hash(&mut hasher);
        let hash = hasher.finish();
        if self.noted.contains(&hash) {
            return;
        }
        notebook.lock().does(&self.caller(), self.assigned, (action, topic));
        if self.noted.len() < NOTED {
            self.noted.insert(hash);
        }
    }
}

impl Pass for Ticket {
    fn may_publish(&mut self, topic: &str) -> bool {
        self.renew();
        self.note(Action::Publish, topic);
        self.rights.as_ref().is_none_or(|rights| rights.may_publish(topic))
    }

    fn may_subscribe(&mut self, filter: &str) -> bool {
        self.renew();
        self.note(Action::Subscribe, filter);
        self.rights.as_ref().is_none_or(|rights| rights.may_subscribe(filter))
    }

    fn has_changed(&mut self) -> bool {
        self.renew();
        std::mem::take(&mut self.changed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(password: &str) -> Policy {
        let hash = users::hash(&Secret::new(password.to_owned()), &[1; users::SALT]).unwrap();
        let file = users::set("", "panel", &hash).unwrap();
        Policy { access: None, users: Users::parse(0, &file).0, anonymous: true }
    }

    async fn admitted(keeper: &Keeper, user: Option<&str>, password: &'static str) -> Result<(), &'static str> {
        let visitor = Visitor {
            address: [10, 0, 0, 1].into(),
            client: "c".to_owned(),
            assigned: false,
            user: user.map(str::to_owned),
            password: Some(password.as_bytes().into()),
        };
        keeper.admit(visitor).await.map(drop).map_err(|refusal| refusal.label)
    }

    #[tokio::test]
    async fn passwords_are_remembered_until_they_change() {
        let keeper = Keeper::new(policy("one"), None);
        let bad = Err("bad_user_name_or_password");
        for (user, password, expect, remembered) in [
            (Some("panel"), "two", bad, 0),
            (Some("nobody"), "one", bad, 0),
            (Some("panel"), "one", Ok(()), 1),
            (Some("panel"), "one", Ok(()), 1),
            (Some("panel"), "two", bad, 1),
            (None, "one", Ok(()), 1),
        ] {
            assert_eq!(admitted(&keeper, user, password).await, expect, "{user:?} {password}");
            assert_eq!(keeper.0.verified.lock().len(), remembered, "{user:?} {password}");
        }
        keeper.replace(policy("two"));
        assert_eq!(admitted(&keeper, Some("panel"), "one").await, bad);
        assert_eq!(admitted(&keeper, Some("panel"), "two").await, Ok(()));
    }

    #[tokio::test]
    async fn a_password_waits_for_its_turn() {
        let keeper = Keeper::new(policy("one"), None);
        let taken = keeper.0.verifying.clone().acquire_many_owned(u32::try_from(VERIFICATIONS).unwrap()).await.unwrap();
        let waiting = admitted(&keeper, Some("panel"), "one");
        tokio::pin!(waiting);
        assert!(tokio::time::timeout(std::time::Duration::ZERO, &mut waiting).await.is_err());
        assert_eq!(admitted(&keeper, None, "").await, Ok(()), "others do not wait for it");
        drop(taken);
        assert_eq!(waiting.await, Ok(()));
        assert_eq!(keeper.0.verifying.available_permits(), VERIFICATIONS);
    }
}
