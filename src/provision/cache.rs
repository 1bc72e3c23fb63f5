//! Assignments on disk: a device that knows its hub need not ask again after a restart.
//!
//! One JSON file a registration, `<state>/assignments/<registration id>.json`, replaced as a whole. It holds no secret.
//! What cannot be read, or was assigned in another ID scope, is as good as not there.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, fchown};
use std::path::{Path, PathBuf};

use rustix::fs::{self as rfs, AtFlags, Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::hub::connection_string::{is_host, is_id};
use crate::hub::dps::{Assignment, Registration};
use crate::message::Timestamp;

/// The folder, below that of the state.
const FOLDER: &str = "assignments";

/// Where a device belongs, as it was last told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// The host name of the hub.
    pub hub: String,
    /// The device id there.
    pub device: String,
    id_scope: String,
    registration_id: String,
    /// When it was told.
    pub assigned: String,
}

impl Known {
    /// What was told now.
    pub fn new(registration: &Registration, assignment: &Assignment, now: Timestamp) -> Self {
        Self {
            hub: assignment.hub.clone(),
            device: assignment.device.clone(),
            id_scope: registration.scope.clone(),
            registration_id: registration.id.to_string(),
            assigned: now.to_string(),
        }
    }

    fn is_of(&self, registration: &Registration) -> bool {
        let same = self.id_scope == registration.scope && self.registration_id == registration.id.as_str();
        same && !self.hub.is_empty() && is_host(&self.hub) && is_id(&self.device)
    }
}

/// The file of a registration.
pub fn path(state: &Path, registration: &Registration) -> PathBuf {
    state.join(FOLDER).join(format!("{}.json", registration.id))
}

/// What is known of a registration. `Err` where a file is there and of no use.
pub fn load(state: &Path, registration: &Registration) -> Result<Option<Known>, String> {
    let path = path(state, registration);
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("{}: {error}", path.display())),
    };
    let known: Known = serde_json::from_slice(&text).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(Some(known).filter(|known| known.is_of(registration)))
}

/// Writes down what is known. A crash leaves the old file or the new one.
///
/// Root may do so by hand, in a folder that belongs to the service's own user. So nothing here follows a symbolic link
/// below the state folder or writes into a file that is there already: whoever may write that folder must not be able to
/// lead root to another one.
pub fn store(state: &Path, registration: &Registration, known: &Known) -> io::Result<()> {
    fs::create_dir_all(state)?;
    let state = File::open(state)?;
    match rfs::mkdirat(&state, FOLDER, Mode::from_raw_mode(0o755)) {
        Err(error) if error != Errno::EXIST => return Err(error.into()),
        _ => {}
    }
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder = rfs::openat(&state, FOLDER, flags, Mode::empty())
        .map_err(|error| io::Error::new(io::Error::from(error).kind(), format!("{FOLDER} is no folder: {error}")))?;
    let name = format!("{}.json", registration.id);
    let new = format!("{name}.new");
    match rfs::unlinkat(&folder, new.as_str(), AtFlags::empty()) {
        Err(error) if error != Errno::NOENT => return Err(error.into()),
        _ => {}
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file = File::from(rfs::openat(&folder, new.as_str(), flags, Mode::from_raw_mode(0o600))?);
    let mut text = serde_json::to_vec(known)?;
    text.push(b'\n');
    file.write_all(&text)?;
    file.sync_all()?;
    // The service's own user must be able to read and replace it.
    if let Ok(owner) = state.metadata() {
        let (uid, gid) = (Some(owner.uid()), Some(owner.gid()));
        let _ = fchown(&file, uid, gid).and_then(|()| fchown(&folder, uid, gid));
    }
    rfs::renameat(&folder, new.as_str(), &folder, name.as_str())?;
    rfs::fsync(&folder)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::dps::{API_VERSION, RegistrationId};

    #[test]
    fn what_is_stored_is_found_again_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let registration = |scope: &str, id: &str| Registration {
            scope: scope.into(),
            id: RegistrationId::parse(id).unwrap(),
            api_version: API_VERSION.into(),
            payload: None,
        };
        let ours = registration("0ne1", "Press-4:a");
        let assignment =
            Assignment { hub: "h.example".into(), device: "d".into(), substatus: None, group: None, payload: None };
        let known = Known::new(&ours, &assignment, Timestamp(0));
        assert_eq!(load(folder.path(), &ours), Ok(None));
        store(folder.path(), &ours, &known).unwrap();
        store(folder.path(), &ours, &known).unwrap();
        assert_eq!(load(folder.path(), &ours), Ok(Some(known.clone())));
        assert_eq!(load(folder.path(), &registration("0ne2", "press-4:a")), Ok(None));
        assert_eq!(load(folder.path(), &registration("0ne1", "press-5")), Ok(None));
        let file = path(folder.path(), &ours);
        let text = fs::read_to_string(&file).unwrap();
        for (broken, sound) in [
            ("", false),
            ("{", false),
            (&text.replace("h.example", ""), true),
            (&text.replace("\"d\"", "\"a/b\""), true),
        ] {
            fs::write(&file, broken).unwrap();
            assert_eq!(load(folder.path(), &ours).is_ok(), sound, "{broken}");
            assert_eq!(load(folder.path(), &ours).ok().flatten(), None, "{broken}");
        }
    }

    #[test]
    fn a_link_leads_nobody_elsewhere() {
        use std::os::unix::fs::symlink;
        let registration = Registration {
            scope: "0ne1".into(),
            id: RegistrationId::parse("p").unwrap(),
            api_version: API_VERSION.into(),
            payload: None,
        };
        let assignment =
            Assignment { hub: "h.example".into(), device: "d".into(), substatus: None, group: None, payload: None };
        let known = Known::new(&registration, &assignment, Timestamp(0));
        for (name, is_hard, at, stores) in [
            ("a link in place of the new file", false, "assignments/p.json.new", true),
            ("a link in place of the file", false, "assignments/p.json", true),
            ("another name of a file in place of the new one", true, "assignments/p.json.new", true),
            ("a link in place of the folder", false, "assignments", false),
        ] {
            let (state, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
            let (victim, at) = (elsewhere.path().join("p.json"), state.path().join(at));
            fs::write(&victim, "precious").unwrap();
            if stores {
                fs::create_dir(state.path().join(FOLDER)).unwrap();
            }
            match (is_hard, stores) {
                (true, _) => fs::hard_link(&victim, &at).unwrap(),
                (false, true) => symlink(&victim, &at).unwrap(),
                (false, false) => symlink(elsewhere.path(), &at).unwrap(),
            }
            assert_eq!(store(state.path(), &registration, &known).is_ok(), stores, "{name}");
            assert_eq!(fs::read_to_string(&victim).unwrap(), "precious", "{name}");
            assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 1, "{name}");
            if stores {
                assert_eq!(load(state.path(), &registration), Ok(Some(known.clone())), "{name}");
            }
        }
    }
}
