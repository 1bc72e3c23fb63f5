//! `brownbridge enrol --id-scope ..`: a registration without a configuration.
//!
//! The options are those of `[uplink]` and `[uplink.dps]`, and are judged as these are. What is wrong is told without a
//! place: nobody wrote a file.

use std::path::Path;

use crate::app::settings::dps::{Enrolment, enrolment};
use crate::cli::check::print_error;
use crate::config::proxy;

/// The environment variables with the key of an individual enrolment, and of a group.
const KEYS: [(&str, &str); 2] = [("symmetric_key", "DPS_SYMMETRIC_KEY"), ("group_key", "DPS_GROUP_KEY")];
/// The environment variable with a proxy and its password.
const PROXY: &str = "DPS_PROXY";

/// What stands in for a configuration.
#[derive(clap::Args)]
#[command(next_help_heading = "Without a configuration")]
pub(super) struct ByHand {
    /// The ID scope of the service.
    #[arg(long, value_name = "SCOPE", conflicts_with = "config")]
    pub(super) id_scope: Option<String>,
    /// File with the key of an individual enrolment.
    #[arg(long, value_name = "FILE", requires = "id_scope")]
    symmetric_key_file: Option<String>,
    /// File with the key of an enrolment group.
    #[arg(long, value_name = "FILE", requires = "id_scope", conflicts_with = "symmetric_key_file")]
    group_key_file: Option<String>,
    /// PEM file of the certificate and its chain, leaf first.
    #[arg(
        long,
        value_name = "FILE",
        requires_all = ["id_scope", "key"],
        conflicts_with_all = ["symmetric_key_file", "group_key_file"],
    )]
    certificate: Option<String>,
    /// PEM file of the certificate's key.
    #[arg(long, value_name = "FILE", requires = "certificate")]
    key: Option<String>,
    /// PEM file of the roots to trust instead of the system's.
    #[arg(long, value_name = "FILE", requires = "id_scope")]
    ca_file: Vec<String>,
    /// PEM file of roots to trust beside the system's.
    #[arg(long, value_name = "FILE", requires = "id_scope", conflicts_with = "ca_file")]
    extra_ca_file: Vec<String>,
    /// How the service is spoken to: HTTPS or MQTT in a WebSocket, both on port 443, or MQTT on port 8883 [default: rest].
    #[arg(long, value_name = "WAY", value_parser = ["rest", "websocket", "mqtt"], requires = "id_scope")]
    transport: Option<String>,
    /// The HTTP proxy to go through, http://HOST:PORT; with a user and password it is read from the environment variable DPS_PROXY.
    #[arg(long, value_name = "URL", requires = "id_scope")]
    proxy: Option<String>,
    /// The address of this machine to connect from.
    #[arg(long, value_name = "IP", requires = "id_scope")]
    bind: Option<String>,
    /// The version of the service's interface to ask for [default: 2019-03-31].
    #[arg(long, value_name = "VERSION", requires = "id_scope")]
    api_version: Option<String>,
    /// The host name of the service [default: global.azure-devices-provisioning.net].
    #[arg(long, value_name = "NAME", requires = "id_scope")]
    host: Option<String>,
    /// Connects here; the name in --host is still checked.
    #[arg(long, value_name = "ADDR:PORT", requires = "id_scope")]
    address: Option<String>,
    /// What a custom allocation is told: '{"line": 4}'.
    #[arg(long, value_name = "JSON", requires = "id_scope")]
    payload: Option<String>,
}

/// Environment variables by their names.
type Env<'e> = &'e dyn Fn(&str) -> Option<String>;

impl ByHand {
    /// Who registers where. The error is what is wrong, a line each.
    pub(super) fn enrolment(&self, (scope, id): (&str, Option<&str>), env: Env<'_>) -> Result<Enrolment, String> {
        let keys = self.keys(env)?;
        if id.is_none() && self.certificate.is_none() {
            return Err("which device is it? brownbridge enrol ID --id-scope ..".to_owned());
        }
        if self.proxy.as_deref().is_some_and(|text| proxy::split(text).is_ok_and(|parts| parts.credentials.is_some())) {
            return Err(format!(
                "everybody on this machine can read a password on the command line: put all of --proxy into the \
                 environment variable {PROXY}"
            ));
        }
        let text = self.as_config((scope, id), &keys, env);
        let found = enrolment(Path::new("command line"), &text, None, env);
        let titles: Vec<&str> = found.diagnostics.iter().map(|found| found.title.as_str()).collect();
        if found.options.is_none() {
            return Err(titles.join("\n"));
        }
        titles.iter().for_each(|title| print_error(&format!("warning: {title}\n")));
        Ok(found)
    }

    /// The keys that come from the environment, with their variables.
    fn keys(&self, env: Env<'_>) -> Result<Vec<(&'static str, &'static str)>, String> {
        if self.symmetric_key_file.is_some() || self.group_key_file.is_some() || self.certificate.is_some() {
            return Ok(Vec::new());
        }
        let keys: Vec<_> = KEYS.into_iter().filter(|(_, name)| env(name).is_some()).collect();
        let [(_, individual), (_, group)] = KEYS;
        match keys.len() {
            0 => Err(format!(
                "what does it prove itself with? A key is read from --symmetric-key-file or --group-key-file, or from \
                 the environment variable {individual} or {group}; a certificate from --certificate and --key"
            )),
            1 => Ok(keys),
            _ => Err(format!("{individual} and {group} are both set: unset the one that is not this enrolment's")),
        }
    }

    /// The configuration that says the same.
    fn as_config(&self, (scope, id): (&str, Option<&str>), keys: &[(&str, &str)], env: Env<'_>) -> String {
        let (mut uplink, mut dps) = (toml::Table::new(), toml::Table::new());
        // A `$` on the command line is a `$`.
        let plain = |text: &str| toml::Value::from(text.replace('$', "$$"));
        let of_dps = [
            ("id_scope", Some(scope)),
            ("registration_id", id),
            ("symmetric_key_file", self.symmetric_key_file.as_deref()),
            ("group_key_file", self.group_key_file.as_deref()),
            ("transport", self.transport.as_deref()),
            ("host", self.host.as_deref()),
            ("address", self.address.as_deref()),
            ("api_version", self.api_version.as_deref()),
            ("payload", self.payload.as_deref()),
        ];
        let of_uplink = [
            ("certificate", self.certificate.as_deref()),
            ("key", self.key.as_deref()),
            ("proxy", self.proxy.as_deref()),
            ("bind", self.bind.as_deref()),
        ];
        for (table, given) in [(&mut dps, of_dps.as_slice()), (&mut uplink, of_uplink.as_slice())] {
            let given = given.iter().filter_map(|(key, value)| Some(((*key).to_owned(), plain((*value)?))));
            table.extend(given);
        }
        for (key, files) in [("ca_file", &self.ca_file), ("extra_ca_file", &self.extra_ca_file)] {
            uplink.insert(key.to_owned(), files.iter().map(|file| plain(file)).collect::<Vec<_>>().into());
        }
        let from = |name: &str| toml::Value::from(format!("${{{name}}}"));
        dps.extend(keys.iter().map(|(key, name)| ((*key).to_owned(), from(name))));
        if self.proxy.is_none() && env(PROXY).is_some() {
            uplink.insert("proxy".to_owned(), from(PROXY));
        }
        uplink.insert("dps".to_owned(), dps.into());
        toml::Table::from_iter([("uplink".to_owned(), uplink.into())]).to_string()
    }
}
