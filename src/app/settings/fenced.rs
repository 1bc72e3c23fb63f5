//! What is doubtful in `[commands]` and the rules together: commands that never come, and those that nobody lets through.

use crate::bridge::Own;
use crate::config::Config;
use crate::diag::{Diagnostic, Span};
use crate::downlink::Fence;
use crate::rules::{Destination, RuleSet};
use crate::topic;

/// All of it, in the file of the configuration.
pub(super) fn doubts(config: &Config, own: &Own, rules: &RuleSet, file: usize) -> Vec<Diagnostic> {
    let commands = &config.commands;
    let warning = |code, title: String, place: &Span| {
        let found = Diagnostic::warning(code, title, file);
        if place.is_empty() { found } else { found.at(place.clone(), "") }
    };
    let mut found = Vec::new();
    if own.device.is_none() && rules.has_reported() {
        let title = "the rules have `to = \"reported\"`, and the uplink is a broker: there is no twin";
        let help = "what they take goes to the quarantine as no_twin";
        found.push(warning("no-twin", title.to_owned(), &(0..0)).help(help));
    }
    let wanted = rules.destinations().next().map(|destination| destination.section);
    match (commands.enabled.value, &own.device, wanted) {
        (false, _, Some(section)) => {
            let title = format!("the rules have {section}, and the hub may command nothing");
            found.push(warning("commands-off", title, &commands.enabled.span).help("[commands]\nenabled = true"));
        }
        (true, None, _) => {
            let title = "commands come from a hub, and the uplink is a broker".to_owned();
            let help = "remove `enabled = true` from [commands]";
            found.push(warning("commands-off", title, &commands.enabled.span).help(help));
        }
        _ => {}
    }
    let tier = config.uplink.tier.filter(|tier| tier.starts_with('B') && own.device.is_some());
    if let Some(tier) = tier.filter(|_| commands.enabled.value || rules.has_reported()) {
        let title = format!("a Basic hub (tier = \"{tier}\") has no messages to devices, no methods and no twins");
        let help = "nothing comes down and nothing is reported; a Standard hub has them: S1, S2, S3";
        found.push(warning("basic-tier", title, &commands.enabled.span).help(help));
    }
    if commands.enabled.value && own.device.is_some() {
        let fence = Fence { allow: commands.allow.value.clone() };
        for one in rules.destinations().filter(|one| !reaches(&fence, one)) {
            let title =
                format!("{} `{}` publishes to {}, and `allow` has no such topic", one.section, one.name, one.topic);
            let help = format!("{}, or remove the {}", fence.with(nearest(&fence, &one), one.topic), one.section);
            found.push(warning("beyond-allow", title, &commands.allow.span).help(help));
        }
    }
    found
}

/// True where some device may be sent something by it.
fn reaches(fence: &Fence, to: &Destination<'_>) -> bool {
    let admits = |(pattern, filters): &(String, Vec<String>)| {
        let is_taken = pattern.contains('*') || to.takes(pattern);
        is_taken && filters.iter().any(|filter| topic::overlap(filter, to.topic))
    };
    fence.allow.is_empty() || fence.allow.iter().any(admits)
}

/// The entry of the fence that is about its devices.
fn nearest<'f>(fence: &'f Fence, to: &Destination<'_>) -> &'f str {
    let patterns = fence.allow.iter().map(|(pattern, _)| pattern.as_str());
    let about = |pattern: &&str| pattern.contains('*') || to.takes(pattern);
    patterns.into_iter().find(about).unwrap_or("*")
}
