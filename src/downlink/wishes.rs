//! What may be desired of the bridge itself in its twin: a few parameters, each taken or refused as a whole, and told so
//! in the form of IoT Plug and Play ("Writable properties").
//!
//! ```json
//! { "bridge": { "log_level": "debug", "hub_rate": 50,
//!               "rule_files": { "20-energy": false },
//!               "tuning": { "temperature": { "throttle": 30, "change": 0.5 } } } }
//! ```
//!
//! | parameter | values |
//! |---|---|
//! | `log_level` | `error`, `warn`, `info`, `debug` |
//! | `hub_rate` | messages a second that the hub is taken to take, from 1 to 60,000: the backlog follows at nine tenths of what live ones leave of it |
//! | `rule_files` | names of rule files without `.toml`, and whether their rules are in use |
//! | `tuning` | names of rules, each with other numbers for its `throttle` (in seconds) and for the `change` of its `report_by_exception` |
//!
//! What a twin takes in no name is written as `%` and two hex digits. What is not desired, or no longer, is as the files
//! say.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

/// The component of the twin.
pub const COMPONENT: &str = "bridge";
/// Entries of a parameter at most.
const MOST: usize = 100;
/// The longest throttle: a day.
const THROTTLE_MAX: f64 = 86_400.0;
/// Most messages a second: what the largest hub takes, ten units of S3.
const RATE_MAX: u64 = 60_000;
/// Levels of the log that may be desired.
const LEVELS: [&str; 4] = ["error", "warn", "info", "debug"];

/// What may be desired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parameter {
    /// How much the log says.
    LogLevel,
    /// The pace of the uplink.
    HubRate,
    /// Which rule files are in use.
    RuleFiles,
    /// Numbers of rules.
    Tuning,
}

impl Parameter {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::LogLevel, Self::HubRate, Self::RuleFiles, Self::Tuning];

    /// Its name in the twin.
    pub fn name(self) -> &'static str {
        match self {
            Self::LogLevel => "log_level",
            Self::HubRate => "hub_rate",
            Self::RuleFiles => "rule_files",
            Self::Tuning => "tuning",
        }
    }
}

/// Other numbers for a rule.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Tune {
    /// Milliseconds.
    pub throttle: Option<i64>,
    /// What counts as a change.
    pub change: Option<f64>,
}

/// What is desired of the bridge; by default nothing.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Wishes {
    /// How much the log says.
    pub log_level: Option<&'static str>,
    /// Messages a second that the hub is taken to take.
    pub hub_rate: Option<u32>,
    /// Rule files, and whether they are in use.
    pub rule_files: BTreeMap<String, bool>,
    /// Rules, and their numbers.
    pub tuning: BTreeMap<String, Tune>,
}

impl Wishes {
    /// With another value of one parameter; without a value it is as the files say. Says in words why not.
    pub fn with(&self, parameter: Parameter, value: Option<&Value>) -> Result<Self, String> {
        let mut wishes = self.clone();
        match (parameter, value) {
            (Parameter::LogLevel, value) => wishes.log_level = value.map(level).transpose()?,
            (Parameter::HubRate, value) => wishes.hub_rate = value.map(rate).transpose()?,
            (Parameter::RuleFiles, value) => wishes.rule_files = entries(value, flag)?,
            (Parameter::Tuning, value) => wishes.tuning = entries(value, tune)?,
        }
        Ok(wishes)
    }

    /// As it may be desired again.
    pub fn to_json(&self) -> Value {
        let tunes = self.tuning.iter().map(|(name, tune)| {
            #[expect(clippy::cast_precision_loss, reason = "a throttle is a day at most")]
            let throttle = tune.throttle.map(|ms| ms as f64 / 1e3);
            let numbers = [("throttle", throttle), ("change", tune.change)];
            let numbers = numbers.into_iter().filter_map(|(name, number)| Some((name.to_owned(), number?.into())));
            (name.clone(), Value::Object(numbers.collect()))
        });
        let tuning: Map<String, Value> = tunes.collect();
        let Self { log_level, hub_rate, rule_files, .. } = self;
        json!({"log_level": log_level, "hub_rate": hub_rate, "rule_files": rule_files, "tuning": tuning})
    }

    /// Reads what [`to_json`](Self::to_json) wrote; what is not understood is left out.
    pub fn from_json(value: &Value) -> Self {
        Parameter::ALL.into_iter().fold(Self::default(), |wishes, parameter| {
            wishes.with(parameter, desired(value, parameter)).unwrap_or(wishes)
        })
    }
}

/// What is desired of a parameter, in the component.
pub fn desired(component: &Value, parameter: Parameter) -> Option<&Value> {
    component.get(parameter.name()).filter(|value| !value.is_null())
}

/// A writable property as it is acknowledged: 200 where it is taken.
pub fn acknowledged(value: &Value, status: u16, version: Option<u64>, description: &str) -> Value {
    json!({"value": value, "ac": status, "av": version.unwrap_or(0), "ad": description})
}

fn level(value: &Value) -> Result<&'static str, String> {
    let known = LEVELS.into_iter().find(|level| value.as_str() == Some(level));
    known.ok_or_else(|| format!("a level of the log is one of {}", LEVELS.join(", ")))
}

fn rate(value: &Value) -> Result<u32, String> {
    let rate = value.as_u64().filter(|rate| (1..=RATE_MAX).contains(rate));
    let rate = rate.and_then(|rate| u32::try_from(rate).ok());
    rate.ok_or_else(|| format!("messages a second are a whole number from 1 to {RATE_MAX}"))
}

fn entries<T>(
    value: Option<&Value>,
    read: impl Fn(&str, &Value) -> Result<T, String>,
) -> Result<BTreeMap<String, T>, String> {
    let Some(value) = value else { return Ok(BTreeMap::new()) };
    let object = value.as_object().ok_or("this is an object: names and what is to become of them")?;
    if object.len() > MOST {
        return Err(format!("there are more than {MOST} entries"));
    }
    // Component and array markers of Plug and Play begin so.
    let named = object.iter().filter(|(name, value)| !name.starts_with("__") && !value.is_null());
    named.map(|(name, value)| Ok((name.clone(), read(name, value)?))).collect()
}

fn flag(name: &str, value: &Value) -> Result<bool, String> {
    value.as_bool().ok_or_else(|| format!("`{name}` is true or false"))
}

fn tune(name: &str, value: &Value) -> Result<Tune, String> {
    let object = value.as_object().ok_or_else(|| format!("`{name}` is an object with `throttle` or `change`"))?;
    let mut tune = Tune::default();
    for (key, value) in object.iter().filter(|(_, value)| !value.is_null()) {
        let number = value.as_f64().filter(|number| *number > 0.0 && number.is_finite());
        let number = number.ok_or_else(|| format!("`{key}` of `{name}` is a number above 0"))?;
        match key.as_str() {
            "throttle" if (0.001..=THROTTLE_MAX).contains(&number) => {
                #[expect(clippy::cast_possible_truncation, reason = "a day at most")]
                let ms = (number * 1e3).round() as i64;
                tune.throttle = Some(ms);
            }
            "throttle" => return Err(format!("`throttle` of `{name}` is from 0.001 to {THROTTLE_MAX} seconds")),
            "change" => tune.change = Some(number),
            _ => return Err(format!("`{name}` has no `{key}`: throttle, change")),
        }
    }
    Ok(tune)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_desired() {
        use Parameter::{HubRate, LogLevel, RuleFiles, Tuning};
        let all = |changed: Value| {
            let mut all = json!({"log_level": null, "hub_rate": null, "rule_files": {}, "tuning": {}});
            all.as_object_mut().unwrap().extend(changed.as_object().unwrap().clone());
            all
        };
        let whole = "messages a second are a whole number from 1 to 60000";
        for (parameter, value, expect) in [
            (LogLevel, json!("debug"), Ok(all(json!({"log_level": "debug"})))),
            (LogLevel, json!("trace"), Err("a level of the log is one of error, warn, info, debug")),
            (LogLevel, json!(3), Err("a level of the log is one of error, warn, info, debug")),
            (HubRate, json!(1), Ok(all(json!({"hub_rate": 1})))),
            (HubRate, json!(60_000), Ok(all(json!({"hub_rate": 60_000})))),
            (HubRate, json!(0), Err(whole)),
            (HubRate, json!(60_001), Err(whole)),
            (HubRate, json!(0.5), Err(whole)),
            (HubRate, json!("50"), Err(whole)),
            (
                RuleFiles,
                json!({"20-energy": false, "30": true, "__t": "c", "gone": null}),
                Ok(all(json!({"rule_files": {"20-energy": false, "30": true}}))),
            ),
            (RuleFiles, json!({"20-energy": "off"}), Err("`20-energy` is true or false")),
            (RuleFiles, json!([]), Err("this is an object: names and what is to become of them")),
            (
                Tuning,
                json!({"temp": {"throttle": 30, "change": 0.5}}),
                Ok(all(json!({"tuning": {"temp": {"throttle": 30.0, "change": 0.5}}}))),
            ),
            (Tuning, json!({"temp": {"throttle": 0}}), Err("`throttle` of `temp` is a number above 0")),
            (Tuning, json!({"temp": {"throttle": 1e9}}), Err("`throttle` of `temp` is from 0.001 to 86400 seconds")),
            (Tuning, json!({"temp": {"every": 1}}), Err("`temp` has no `every`: throttle, change")),
            (Tuning, json!({"temp": 1}), Err("`temp` is an object with `throttle` or `change`")),
        ] {
            let got = Wishes::default().with(parameter, Some(&value));
            assert_eq!(got.as_ref().map(Wishes::to_json).map_err(String::as_str), expect, "{value}");
            if let Ok(wishes) = got {
                assert_eq!(Wishes::from_json(&wishes.to_json()), wishes);
                assert_eq!(wishes.with(parameter, None).unwrap(), Wishes::default(), "what is no longer desired");
            }
        }
        let many: Map<String, Value> = (0..=MOST).map(|n| (n.to_string(), true.into())).collect();
        assert!(Wishes::default().with(RuleFiles, Some(&many.into())).is_err());
    }
}
