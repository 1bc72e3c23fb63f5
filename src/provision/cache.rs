//! Assignments on disk: a device that knows its hub need not ask again after a restart.
//!
//! One JSON file a registration, `<state>/assignments/<registration id>.json`, replaced as a whole. It holds no secret.
//! What cannot be read, or was assigned in another ID scope, is as good as not there.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

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
pub fn store(state: &Path, registration: &Registration, known: &Known) -> io::Result<()> {
    let path = path(state, registration);
    let folder = state.join(FOLDER);
    fs::create_dir_all(&folder)?;
    let mut new = path.clone().into_os_string();
    new.push(".new");
    let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    let mut text = serde_json::to_vec(known)?;
    text.push(b'\n');
    file.write_all(&text)?;
    file.sync_all()?;
    // Root may write it by hand, and the service's own user must be able to read it.
    if let Ok(owner) = fs::metadata(state) {
        let (uid, gid) = (Some(owner.uid()), Some(owner.gid()));
        let _ = std::os::unix::fs::fchown(&file, uid, gid).and_then(|()| std::os::unix::fs::chown(&folder, uid, gid));
    }
    fs::rename(&new, &path)?;
    File::open(&folder)?.sync_all()
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
}
