//! Several simulated hubs with a provisioning service, and bridges that register there.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::{BINARY, Bridge, PATIENCE, Process, free_port, until};

/// The ID scope of all sites.
pub const SCOPE: &str = "0ne00000A0A";
/// Every topic `t/{device}` is a message of that device.
pub const RULES: &str = "[[rule]]\nname = \"all\"\ntopic = \"t/{device}\"\ndevice = \"{device}\"\n";
/// Two hubs, and a service in [`SCOPE`].
pub const HUBS: &str =
    "retry_after = 0\nscope = \"0ne00000A0A\"\n[[hub]]\nhost = \"hub-a.example\"\n[[hub]]\nhost = \"hub-b.example\"\n";

/// `brownbridge sim --site`.
pub struct Site {
    pub process: Process,
    pub port: u16,
    pub dir: PathBuf,
}

impl Site {
    /// In the same folder and on the same port it is the same site with another plan.
    pub fn start(dir: &Path, port: u16, plan: &str) -> Self {
        Self::start_with(dir, port, plan, &[])
    }

    /// With these options of `brownbridge sim`.
    pub fn start_with(dir: &Path, port: u16, plan: &str, args: &[&str]) -> Self {
        fs::create_dir_all(dir).unwrap();
        let file = dir.join("site.toml");
        fs::write(&file, plan).unwrap();
        let mut child = Command::new(BINARY)
            .args(["sim", "--listen", &format!("127.0.0.1:{port}"), "--site"])
            .arg(file)
            .arg("--dir")
            .arg(dir)
            .args(args)
            .stdout(File::options().create(true).append(true).open(dir.join("received.jsonl")).unwrap())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
        assert!(lines.by_ref().any(|line| line.starts_with("id_scope")), "the simulator did not start");
        std::thread::spawn(move || lines.for_each(drop));
        Self { process: Process::from(child), port, dir: dir.to_owned() }
    }

    /// Has it take up another plan; that is done when its effects are seen.
    pub fn replan(&self, plan: &str) {
        fs::write(self.dir.join("site.toml"), plan).unwrap();
        let id = rustix::process::Pid::from_raw(self.process.id().try_into().unwrap()).unwrap();
        rustix::process::kill_process(id, rustix::process::Signal::HUP).unwrap();
    }

    pub fn received(&self) -> Vec<serde_json::Value> {
        let text = fs::read_to_string(self.dir.join("received.jsonl")).unwrap();
        let whole = text.rfind('\n').map_or("", |end| text.get(..end).unwrap());
        whole.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Waits for so many messages; where and from whom the last came.
    pub fn last(&self, messages: usize) -> (String, String) {
        until("messages arrive", PATIENCE, || (self.received().len() >= messages).then_some(()));
        let last = self.received().pop().unwrap();
        let text = |name: &str| last[name].as_str().unwrap().to_owned();
        (text("hub"), text("device"))
    }

    /// A bridge.toml; `uplink` and `dps` are more of those sections.
    pub fn config(&self, uplink: &str, dps: &str, (mqtt, admin): (u16, u16)) -> String {
        let (port, ca) = (self.port, self.dir.join("ca.pem"));
        format!(
            "rules = \"rules\"\nstate = \"state\"\n[broker]\nlisten = \"127.0.0.1:{mqtt}\"\n[admin]\n\
             listen = \"127.0.0.1:{admin}\"\n[uplink]\nca_file = {ca:?}\naddress = \"127.0.0.1:{port}\"\n\
             backoff_min = \"50ms\"\nbackoff_max = \"100ms\"\n{uplink}\n\
             [uplink.dps]\nid_scope = \"0ne00000A0A\"\naddress = \"127.0.0.1:{port}\"\n{dps}\n"
        )
    }

    pub fn bridge(&self, dir: &Path, uplink: &str, dps: &str) -> Bridge {
        self.bridge_in(dir, (uplink, dps), &[])
    }

    /// The same with environment variables.
    pub fn bridge_in(&self, dir: &Path, (uplink, dps): (&str, &str), environment: &[(&str, &str)]) -> Bridge {
        let ports = (free_port(), free_port());
        fs::create_dir_all(dir.join("rules")).unwrap();
        fs::write(dir.join("rules/1.toml"), RULES).unwrap();
        Bridge::launch(dir, &self.config(uplink, dps, ports), ports, environment)
    }
}

/// A root, an intermediate CA and a leaf for `id`: the files of the root, of the chain (leaf first) and of the key.
pub fn chain(dir: &Path, id: &str) -> [PathBuf; 3] {
    use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair};
    fs::create_dir_all(dir).unwrap();
    let params = |name: &str, ca: bool| {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = if ca { IsCa::Ca(BasicConstraints::Unconstrained) } else { IsCa::NoCa };
        params
    };
    let keys = [(); 3].map(|()| KeyPair::generate().unwrap());
    let [root_key, middle_key, leaf_key] = &keys;
    let root = params("plant root", true);
    let root_pem = root.self_signed(root_key).unwrap().pem();
    let middle = params("plant line 1", true);
    let middle_pem = middle.signed_by(middle_key, &Issuer::new(root, root_key)).unwrap().pem();
    let leaf_pem = params(id, false).signed_by(leaf_key, &Issuer::new(middle, middle_key)).unwrap().pem();
    let files = ["root.pem", "leaf.pem", "leaf.key"].map(|name| dir.join(name));
    for (file, text) in files.iter().zip([root_pem, leaf_pem + &middle_pem, leaf_key.serialize_pem()]) {
        fs::write(file, text).unwrap();
    }
    files
}
