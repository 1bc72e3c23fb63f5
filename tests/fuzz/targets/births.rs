//! Any lines as records of what births declared: nothing panics, what is read can be written anew and read again, and
//! then says the same.
#![no_main]

use brownbridge::rules::Births;
use libfuzzer_sys::fuzz_target;

fn written(births: &Births) -> Vec<Vec<u8>> {
    let mut records = Vec::new();
    births.nodes().iter().for_each(|node| births.write(node, |record| records.push(record.to_vec())));
    records
}

fuzz_target!(|lines: &[u8]| {
    let births = Births::default();
    for line in lines.split(|byte| *byte == b'\n') {
        births.restore(line);
    }
    let again = Births::default();
    assert!(written(&births).iter().all(|record| again.restore(record)));
    let (first, second) = (births.tally(), again.tally());
    assert_eq!((first.nodes, first.births, first.bytes), (second.nodes, second.births, second.bytes));
});
