//! Scripts that work, that fail, and that would never end.

use proptest::prelude::*;

use super::*;
use crate::message::{Publish, Timestamp};

fn run(code: &str, input: &str) -> Result<Vec<String>, String> {
    let names = ["line".to_owned()];
    let known = Known { names: &names, columns: &[] };
    let script = Script::parse(code, known).map_err(|mistakes| format!("{:?}", mistakes.first()))?;
    let publish = Publish {
        topic: "line3/x",
        payload: b"",
        client: "plc",
        user: None,
        qos: 1,
        retain: false,
        received: Timestamp(0),
    };
    let facts = Facts {
        publish: &publish,
        captures: std::slice::from_ref(&(0..5)),
        more: [&[], &[]],
        row: &[],
        time: Timestamp(0),
        text: "",
        members: &[],
    };
    let results = script.run(input.as_bytes(), &facts).map_err(|refusal| refusal.detail)?;
    Ok(results.into_iter().map(|result| String::from_utf8(result).unwrap()).collect())
}

#[test]
fn results() {
    for (code, input, expect) in [
        (".", "{\"b\":21.50,\"a\":[1,null,true,\"x\"]}", "{\"b\":21.50,\"a\":[1,null,true,\"x\"]}"),
        (
            "$line, $client, $topic, $qos, $user, $time",
            "0",
            "\"line3\" \"plc\" \"line3/x\" 1 null \"1970-01-01T00:00:00.000Z\"",
        ),
        (".[] | select(.v > 1) | .n", "[{\"n\":\"a\",\"v\":1},{\"n\":\"b\",\"v\":2}]", "\"b\""),
        ("map(.v) | add, length, min, max, (add / length)", "[{\"v\":1},{\"v\":2}]", "3 2 1 2 1.5"),
        ("to_entries | map({(.key): (.value + 1)}) | add", "{\"a\":1,\"b\":2}", "{\"a\":2,\"b\":3}"),
        ("with_entries(.value |= tostring)", "{\"a\":1.5}", "{\"a\":\"1.5\"}"),
        (
            "sort_by(.a) | map(.a), (group_by(.b) | map(length))",
            "[{\"a\":3,\"b\":1},{\"a\":1,\"b\":1},{\"a\":2,\"b\":0}]",
            "[1,2,3] [1,2]",
        ),
        (
            "max_by(.a).n, (map(.a) | unique), first, last",
            "[{\"a\":1,\"n\":\"x\"},{\"a\":2,\"n\":\"y\"}]",
            "\"y\" [1,2] {\"a\":1,\"n\":\"x\"} {\"a\":2,\"n\":\"y\"}",
        ),
        (".a.b = 1 | .c += 2 | del(.d)", "{\"c\":1,\"d\":1}", "{\"c\":3,\"a\":{\"b\":1}}"),
        ("reduce .[] as $x (0; . + $x), [foreach .[] as $x (0; . + $x)]", "[1,2,3]", "6 [1,3,6]"),
        ("[range(0; 6; 2)], [.[] as [$a, $b] | $a * $b]", "[[1,2],[3,4]]", "[0,2,4] [2,12]"),
        (
            "1690000000 | todate, (todate | fromdate), strftime(\"%H:%M\")",
            "0",
            "\"2023-07-22T04:26:40Z\" 1690000000 \"04:26\"",
        ),
        (
            "test(\"^a\"), sub(\"b+\"; \"x\"), gsub(\"(?<c>[abc])\"; \"<\\(.c)>\"), [scan(\"[a-z]\")], split(\"b\")",
            "\"abbc\"",
            "true \"axc\" \"<a><b><b><c>\" [\"a\",\"b\",\"b\",\"c\"] [\"a\",\"\",\"c\"]",
        ),
        ("capture(\"(?<k>[a-z]+)=(?<v>[0-9]+)\") | .v |= tonumber", "\"ab=7\"", "{\"k\":\"ab\",\"v\":7}"),
        (
            "ascii_upcase, ltrimstr(\"a\"), startswith(\"a\"), length, .[1:], (explode | length)",
            "\"aé\"",
            "\"Aé\" \"é\" true 2 \"é\" 2",
        ),
        ("[..] | length", "{\"a\":[1,{\"b\":2}]}", "5"),
        (
            "flatten, transpose, index([3,4]), contains([[3]]), has(0), any, reverse",
            "[[1,2],[3,4]]",
            "[1,2,3,4] [[1,3],[2,4]] null true true true [[3,4],[1,2]]",
        ),
        (
            ". as $x | try error(\"no\") catch ., (.a?), (.b // 7), (if . then 1 else 2 end), isempty(empty)",
            "{}",
            "\"no\" null 7 1 true",
        ),
        ("def twice(f): f | f; twice(. * 2)", "3", "12"),
        ("{a: 1, \"b c\": .x, $line} | tojson | fromjson | keys", "{\"x\":1}", "[\"a\",\"b c\",\"line\"]"),
        (
            "\"\\(.a) and \\(.b)\", @json, @base64 \"\\(.a)\"",
            "{\"a\":\"x\",\"b\":[1]}",
            "\"x and [1]\" \"{\\\"a\\\":\\\"x\\\",\\\"b\\\":[1]}\" \"eA==\"",
        ),
        ("sqrt, floor, (7.6 | round), pow(2; 3), (10 | log10), -. , . % 3", "16", "4 16 8 8 1 -16 1"),
        (
            "[limit(2; .[][])], [[.[][]] | limit(1; .[])], (walk(if . == 1 then 9 else . end)), [combinations]",
            "[[1,2],[3]]",
            "[1,2] [1] [[9,2],[3]] [[1,3],[2,3]]",
        ),
        ("empty", "1", ""),
        (
            "@csv, @tsv, @html \"<\\(.[0])>\", @uri, ([\"it's\", 1] | @sh)",
            "[\"a\\\"\\t'\",1.5,null,true]",
            "\"\\\"a\\\"\\\"\\t'\\\",1.5,,true\" \"a\\\"\\\\t'\\t1.5\\t\\ttrue\" \"<a&quot;\\t&#39;>\" \"%5B%22a%5C%22%5Ct%27%22%2C1.5%2Cnull%2Ctrue%5D\" \"'it'\\\\''s' 1\"",
        ),
        (
            "(.b | @base64d), (.c | implode), getpath([\"a\", 0]), (getpath([\"x\", \"y\"]) // 7)",
            "{\"a\":[3],\"b\":\"YcOp\",\"c\":[97,233]}",
            "\"aé\" \"aé\" 3 7",
        ),
        (
            ".t | strptime(\"%d.%m.%Y %H:%M:%S\") | ., mktime, (mktime | todate), strftime(\"%Y\"), (mktime | gmtime | mktime)",
            "{\"t\":\"22.07.2023 04:26:40\"}",
            "[2023,6,22,4,26,40,6,202] 1690000000 \"2023-07-22T04:26:40Z\" \"2023\" 1690000000",
        ),
        (
            "(strptime(\"%Y-%m-%dT%H:%M:%S%z\") | mktime), ($time | fromdate), (\"2026-01-02\" | strptime(\"%Y-%m-%d\") | mktime)",
            "\"2023-07-22T06:26:40+0200\"",
            "1690000000 0 1767312000",
        ),
        (
            "trimstr(\"x\"), (toarray | length), IN(\"xax\", \"b\"), ([{k: \"a\"}] | INDEX(.k)), (97 | ascii)",
            "\"xax\"",
            "\"a\" 1 true {\"a\":{\"k\":\"a\"}} \"a\"",
        ),
    ] {
        assert_eq!(run(code, input).map(|results| results.join(" ")), Ok(expect.to_owned()), "{code}");
    }
}

#[test]
fn scripts_that_fail() {
    for (code, input, expect) in [
        (".a + 1", "{\"a\":\"x\"}", "the script failed: cannot calculate \"x\" + 1"),
        (".a", "[1]", "the script failed: cannot index a list with \"a\""),
        ("1 / .", "0", "the script failed: 1 is divided by zero"),
        ("error(\"line \\($line) is not mine\")", "0", "the script failed: line line3 is not mine"),
        (".", "{", "the payload is not JSON, at byte 2: `{`"),
        ("label $out | 1, break $out, 2", "0", ""),
        ("@csv", "[{}]", "the script failed: an object cannot be in a row"),
        ("@csv", "1", "the script failed: cannot use 1 as array"),
        ("@base64d", "\"/w==\"", "the script failed: what \"/w==\" decodes to is no text"),
        ("@base64d", "\"*\"", "the script failed: \"*\" is not base64"),
        ("implode", "[-1]", "the script failed: these are no numbers of characters"),
        ("implode", "[55296]", "the script failed: these are no numbers of characters"),
        ("strptime(\"%Y\")", "\"x\"", "the script failed: \"x\" is no time of the format \"%Y\""),
        ("mktime", "[1e300,1e9]", "the script failed: a list is no time"),
        ("mktime", "[2026,12,32]", "the script failed: a list is no time"),
    ] {
        match expect {
            "" => assert_eq!(run(code, input), Ok(vec!["1".to_owned()]), "{code}"),
            expect => assert_eq!(run(code, input), Err(expect.to_owned()), "{code}"),
        }
    }
}

#[test]
fn scripts_without_an_end_are_cut_off() {
    let limit = "the script wants more time or room than one message may have";
    let list = format!("[{}]", vec!["1"; 3_000].join(","));
    for code in [
        "[range(0; 1000000000)] | length",
        "[range(0; infinite)] | length",
        "last(range(0; 1000000000))",
        "range(0; 1000000000) | empty",
        "first(range(0; 1000000000) | select(. < 0))",
        "[.[] as $a | .[] as $b | .[] as $c | $a] | length",
        ".[] as $a | .[] as $b | .[] as $c | empty",
        "any(.[] as $a | .[] as $b | .[] as $c | false; .)",
        "\"x\" * 1000000000",
        "reduce range(0; 100) as $i (\"x\"; . + .)",
        "reduce range(0; 100) as $i ([1]; [., .])",
        "reduce range(0; 100) as $i ([1]; . + .)",
        "reduce range(0; 100) as $i ({}; {a: ., b: .})",
        "reduce range(0; 100000) as $i (1; [.])",
        "reduce range(0; 100000) as $i (1; {a: .})",
        "[limit_is_not_here]",
        "[.[] | tojson * 1000]",
        "map([range(0; 1000)]) | map(sort) | length",
        "(. as $x | map($x)) == (. as $x | map($x))",
        "[.[] | try range(0; 1000000) catch 0] | length",
        "[.[] | (range(0; 1000000) // 1)?] | length",
        "[splits(\"\")] | length, ([range(0; 1000000)] | sort)",
        "tojson | [match(\"1\"; \"g\").offset] | length",
        "range(0; 5000)",
        "reduce range(0; 100) as $i (\"'\"; @sh)",
        "reduce range(0; 100) as $i (\"\\\"\"; [.] | @csv)",
        "[range(0; 100000)] | implode",
        "[.[] | [range(0; 1000)] | @tsv]",
    ] {
        let result = run(code, &list);
        match code {
            "[limit_is_not_here]" => assert!(result.unwrap_err().contains("Filter")),
            code => assert!(
                matches!(&result, Err(detail) if detail == limit || detail.contains("failed")),
                "{code}: {:.200}",
                format!("{result:?}")
            ),
        }
    }
}

/// The largest scripts and the deepest values that are taken need no more stack than a thread of a test has.
#[test]
fn the_deepest_that_is_taken_runs() {
    let joined = |part: &str, by: &str, times: usize| vec![part; times].join(by);
    let nested = |depth: usize| format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
    let deep = nested(128);
    for (code, input, results) in [
        (joined(".", " | ", 120), "1", 1),
        (joined("1", ", ", 120), "1", 120),
        (joined("1", " + ", 120), "1", 1),
        (joined(".", " // ", 61), "null", 1),
        (joined("(. as $x | $x)", " | ", 40), "1", 1),
        (format!("{}.{}", "(".repeat(24), ")".repeat(24)), "1", 1),
        (nested(24), "1", 1),
        (format!("{}1{}", "[.[]?] | (".repeat(22), ")".repeat(22)), "[1]", 1),
        (format!("{}1", "-".repeat(120)), "1", 1),
        (format!("{}1{}", "if . then ".repeat(119), " end".repeat(119)), "1", 1),
        (format!("[{}]", joined("1", ", ", 178)), "1", 1),
        (format!("{{{}}}", (0..230).map(|n| format!("k{n}: 1")).collect::<Vec<_>>().join(", ")), "1", 1),
        (format!("\"{}\"", "\\(.)".repeat(200)), "1", 1),
        (format!("\"{}\"", "a\\n".repeat(110)), "1", 1),
        (".a".repeat(700), "{}", 1),
        (format!(".{}", "[]?".repeat(350)), "[]", 0),
        (joined(".a |= 1", " | ", 110), "{}", 1),
        (format!("if false then 1 {} else 3 end", "elif false then 2 ".repeat(115)), "1", 1),
        (format!("{}1", "def f: 1;".repeat(50)), "1", 1),
        (format!("{}[{}]", "[".repeat(20), joined("1", ", ", 100)) + &"]".repeat(20), "1", 1),
        (format!("{}1", "try ".repeat(120)), "1", 1),
        ("[..] | length".to_owned(), &deep, 1),
        ("walk(.) | tojson | length".to_owned(), &deep, 1),
        ("(. == .), (. < .), ([., .] | sort | unique | length), flatten".to_owned(), &deep, 4),
        ("del(..[0]?) | length".to_owned(), &deep, 1),
        ("reduce range(0; 199) as $i (1; [.]) | [..] | length".to_owned(), "1", 1),
        ("[limit(5000; .[] | .)] | length".to_owned(), "[1,2,3]", 1),
    ] {
        let made = run(&code, input).map(|made| made.len());
        assert!(
            made == Ok(results) || made.as_ref().is_err_and(|detail| detail.contains("failed")),
            "{code:.60}: {made:?}"
        );
    }
}

#[test]
fn what_may_never_end_is_refused() {
    for code in [
        "repeat(.)",
        "[while(true; .)]",
        "until(false; .)",
        "recurse(.)",
        "def f: f; f",
        "def f: 1 | g; def g: f; f",
        "def f(x): def g: f(x); g; f(1)",
        "setpath([range(0; 100000)]; 1)",
        "getpath([\"a\"]) = 1",
        "del(getpath([\"a\"]))",
        "(reduce .[] as $x (.; .a)) = 1",
        "del(reduce .[] as $x (.; .a))",
        "def p: reduce .[] as $x (.; .a); p |= 1",
        "import \"a\" as a; 1",
        "halt",
        "input",
        "now",
        "env",
        "$ENV",
        "$__prog_args",
        "debug",
        "localtime",
        &"(".repeat(3000),
        &"-".repeat(3000),
        &"1|".repeat(2000),
        &"if 1 then ".repeat(500),
        &"[".repeat(8000),
        &"\"\\(".repeat(200),
    ] {
        let names = ["line".to_owned()];
        let parsed = Script::parse(code, Known { names: &names, columns: &[] });
        assert!(parsed.is_err(), "{:.40}", code);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    /// Whatever loads ends, and what it makes is JSON.
    #[test]
    fn any_script_ends(parts in proptest::collection::vec(prop_oneof![
        Just("."), Just(".a"), Just("[]"), Just(" | "), Just(", "), Just("("), Just(")"), Just("["), Just("]"), Just("1"),
        Just("range(0; 1e9)"), Just(" * "), Just(" + "), Just("\"x\""), Just(" as $x | "), Just("$x"), Just("reduce "),
        Just("foreach "), Just("(0; . + $x)"), Just("{a: ."), Just("}"), Just(" |= "), Just(" = "), Just("tojson"), Just("map("),
        Just("sort"), Just("add"), Just("try "), Just("?"), Just(" // "), Just(".."), Just("first("), Just("if . then "), Just(" else . end"),
        Just("del("), Just("to_entries"), Just("limit(3; "), Just("[.[]?]"), Just("flatten"), Just("def f: . ; f"),
    ], 1..10), input in prop_oneof![Just("[1,[2,3],{\"a\":[4]}]"), Just("{\"a\":{\"a\":[1,2,\"x\"]}}"), Just("3")]) {
        for result in run(&parts.concat(), input).unwrap_or_default() {
            prop_assert!(serde_json::from_str::<serde_json::Value>(&result).is_ok(), "{}", result);
        }
    }
}
