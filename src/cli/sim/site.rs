//! `brownbridge sim --site`: several hubs and a provisioning service.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;

use anyhow::Context as _;
use tokio::sync::mpsc;

use super::Args;
use crate::app::text_file;
use crate::hubsim::Received;
use crate::hubsim::dps::{Attestation, Enrolment};
use crate::hubsim::site::{self, Common, Plan, Site};

/// Starts what the file describes, and tells how to reach it.
pub(super) async fn start(
    path: &Path,
    args: Args,
    output: Option<mpsc::Sender<Vec<Received>>>,
) -> anyhow::Result<Site> {
    let mut plan = read(path)?;
    if plan.listen.is_empty() {
        plan.listen.push(args.listen);
    }
    plan.websocket.extend(args.websocket);
    let base = path.parent().map(Path::to_owned).unwrap_or_default();
    let keeping = args.keeping();
    let common = Common { dir: args.dir, base, output, keeping, misbehave: args.faults.misbehave() };
    let site = site::start(&plan, common).await.with_context(|| path.display().to_string())?;
    std::io::stderr().write_all(introduction(&site, &plan)?.as_bytes()).context("stderr")?;
    Ok(site)
}

/// Takes the file up as it is now.
pub(super) fn again(path: &Path, site: &Site) -> anyhow::Result<()> {
    site.replace(&read(path)?).with_context(|| path.display().to_string())
}

fn read(path: &Path) -> anyhow::Result<Plan> {
    let text = text_file::read(path).map_err(|error| anyhow::anyhow!(text_file::cannot_read(path, &error)))?;
    Plan::parse(&text).with_context(|| path.display().to_string())
}

/// What to write into bridge.toml to be the first of the enrolments. Its key opens nothing but this simulator.
fn introduction(site: &Site, plan: &Plan) -> anyhow::Result<String> {
    let address = site.addresses().first().map(ToString::to_string).unwrap_or_default();
    let hubs: Vec<&str> = plan.hubs.iter().map(|hub| hub.host.as_str()).collect();
    let mut text = format!(
        "The simulated hubs {} and the provisioning service {} listen on {address}. For bridge.toml:\n\n[uplink]\n",
        hubs.join(", "),
        plan.host
    );
    let mut proofs = String::new();
    for enrolment in site.enrolments() {
        let prefix = if proofs.is_empty() { "" } else { "# " };
        match &enrolment.attestation {
            Attestation::Key(key) => {
                let name = if enrolment.is_group { "group_key" } else { "symmetric_key" };
                let id = shown_id(enrolment);
                let key = key.encode();
                let _ = writeln!(proofs, "{prefix}registration_id = {id:?}\n{prefix}{name} = {:?}", key.expose());
            }
            Attestation::Authority(None) if !enrolment.is_group => {
                let (certificate, key) = site.device_certificate(&enrolment.name)?;
                let _ = writeln!(proofs, "{prefix}registration_id = {:?}", enrolment.name);
                let _ = writeln!(text, "{prefix}certificate = {certificate:?}\n{prefix}key = {key:?}");
            }
            // Whoever wrote the plan has the certificate.
            Attestation::Authority(_) | Attestation::Thumbprint(_) => {}
        }
    }
    let _ = writeln!(text, "ca_file = {:?}\naddress = \"{address}\"\n\n[uplink.dps]", site.ca_file());
    if plan.host != crate::hub::dps::HOST {
        let _ = writeln!(text, "host = {:?}", plan.host);
    }
    let _ = writeln!(text, "id_scope = {:?}\n{proofs}address = \"{address}\"\n", plan.scope);
    text.push_str(&per_device(site, plan, &address));
    Ok(text)
}

/// The same for devices that register for themselves, as a comment; nothing without a group whose key they share.
fn per_device(site: &Site, plan: &Plan, address: &str) -> String {
    let keyed = |enrolment: &Enrolment| match &enrolment.attestation {
        Attestation::Key(key) if enrolment.is_group => Some((enrolment.name.clone(), key.encode())),
        _ => None,
    };
    let Some((group, key)) = site.enrolments().iter().find_map(keyed) else { return String::new() };
    let mut whole = format!(
        "[uplink]\nidentity = \"per-device\"\nca_file = {:?}\naddress = \"{address}\"\n\n[uplink.dps]\n",
        site.ca_file()
    );
    if plan.host != crate::hub::dps::HOST {
        let _ = writeln!(whole, "host = {:?}", plan.host);
    }
    let _ = writeln!(
        whole,
        "id_scope = {:?}\nregistration_id = \"bridge-1\"   # the bridge itself\ngroup_key = {:?}\naddress = \"{address}\"\n\n\
         [uplink.devices]\nallow = [\"*\"]                   # which devices may connect",
        plan.scope,
        key.expose()
    );
    let lines = whole.lines().map(|line| format!("# {line}").trim_end().to_owned() + "\n");
    format!("# Or, where each device registers for itself, in group {group}:\n#\n{}\n", lines.collect::<String>())
}

/// In a group any id will do.
fn shown_id(enrolment: &Enrolment) -> &str {
    if enrolment.is_group { "any-id" } else { &enrolment.name }
}
