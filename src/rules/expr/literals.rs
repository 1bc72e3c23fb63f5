//! Texts that an expression compares with the clock and that the clock never shows: `weekday == "monday"`, which is `"mon"`,
//! or `time_of_day > "6:00"`, which as a text is behind `"10:00"`.

use super::{Compare, Expr};

const WEEKDAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

/// A text that is never there.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::rules) struct Never<'e> {
    /// As it is written, without its quotes.
    pub(in crate::rules) text: &'e str,
    pub(in crate::rules) title: String,
    /// What was meant, where that can be told.
    pub(in crate::rules) meant: Option<String>,
    pub(in crate::rules) help: &'static str,
}

/// Finds all of them.
pub(in crate::rules) fn never<'e>(expr: &'e Expr, found: &mut Vec<Never<'e>>) {
    if let Expr::Compare(how, both) = expr {
        match both.as_ref() {
            [Expr::Weekday(_), Expr::Text(text)] | [Expr::Text(text), Expr::Weekday(_)] => found.extend(weekday(text)),
            [Expr::TimeOfDay(_), Expr::Text(text)] | [Expr::Text(text), Expr::TimeOfDay(_)] => {
                found.extend(time_of_day(text, *how));
            }
            _ => {}
        }
    }
    expr.parts().iter().for_each(|part| never(part, found));
}

fn weekday(text: &str) -> Option<Never<'_>> {
    if WEEKDAYS.contains(&text) {
        return None;
    }
    let begin = text.to_lowercase();
    let meant = WEEKDAYS.into_iter().find(|day| begin.starts_with(day)).map(str::to_owned);
    let help = "weekdays are \"mon\", \"tue\", \"wed\", \"thu\", \"fri\", \"sat\", \"sun\"";
    Some(Never { text, title: format!("no weekday is called `{text}`"), meant, help })
}

/// Times are compared as texts: what is compared with needs two digits everywhere, and all three parts to be the same.
fn time_of_day(text: &str, how: Compare) -> Option<Never<'_>> {
    let parts: Vec<&str> = text.split(':').collect();
    let in_range = |(part, most): (&&str, u32)| {
        part.bytes().all(|byte| byte.is_ascii_digit()) && part.parse::<u32>().is_ok_and(|number| number <= most)
    };
    let sound = (2..=3).contains(&parts.len()) && parts.iter().zip([24, 59, 59]).all(in_range);
    let two_digits = parts.iter().all(|part| part.len() == 2);
    let equal = matches!(how, Compare::Equal | Compare::Unequal);
    let help = "time_of_day is like \"06:00:00\"; compared by < or >= also with \"06:00\"";
    if sound && two_digits && (parts.len() == 3 || !equal) {
        return None;
    }
    let mut meant: Vec<String> = parts.iter().map(|part| format!("{part:0>2}")).collect();
    if equal && meant.len() == 2 {
        meant.push("00".to_owned());
    }
    let meant = (sound && meant.iter().all(|part| part.len() == 2)).then(|| meant.join(":"));
    Some(Never { text, title: format!("`time_of_day` is never compared rightly with `{text}`"), meant, help })
}

#[cfg(test)]
mod tests {
    use super::super::{Known, parse};
    use super::*;

    #[test]
    fn what_the_clock_never_shows() {
        for (text, expect) in [
            (r#"weekday == "mon""#, ""),
            (r#"weekday("Europe/Berlin") != "sun" and .x > 1"#, ""),
            (r#"weekday == "monday""#, "monday: mon"),
            (r#".a > 1 and ("Sunday" == weekday)"#, "Sunday: sun"),
            (r#"if weekday == "weekend" then 1 else 2 end"#, "weekend: ?"),
            (r#"time_of_day >= "06:00" and time_of_day < "24:00""#, ""),
            (r#"time_of_day >= "06:00:30""#, ""),
            (r#"time_of_day("Europe/Berlin") > "6:00""#, "6:00: 06:00"),
            (r#"time_of_day == "06:00""#, "06:00: 06:00:00"),
            (r#"time_of_day < "25:00""#, "25:00: ?"),
            (r#"time_of_day < "noon""#, "noon: ?"),
            (r#"time_of_day < "6""#, "6: ?"),
        ] {
            let expr = parse(text, Known { names: &[], columns: &[] }).unwrap();
            let mut found = Vec::new();
            never(&expr, &mut found);
            let told: Vec<String> = found
                .iter()
                .map(|never| format!("{}: {}", never.text, never.meant.as_deref().unwrap_or("?")))
                .collect();
            assert_eq!(told.join("; "), expect, "{text}");
        }
    }
}
