//! A valid spool of version 1 with harm done to it.

use std::fs;
use std::path::Path;

const FIRST: &[u8] = include_bytes!("../../../golden/spool/v1/0000000000000001-a4fb5197.seg");
const SECOND: &[u8] = include_bytes!("../../../golden/spool/v1/0000000000000015-61893a17.seg");
const ID: &[u8] = include_bytes!("../../../golden/spool/v1/id");

struct File {
    name: String,
    bytes: Vec<u8>,
}

/// Writes the folder of the golden spool as the harms leave it.
pub fn write(dir: &Path, harms: &[u8]) {
    let file = |name: &str, bytes: &[u8]| File { name: name.to_owned(), bytes: bytes.to_vec() };
    let mut files = vec![
        file("0000000000000001-a4fb5197.seg", FIRST),
        file("0000000000000015-61893a17.seg", SECOND),
        file("id", ID),
    ];
    harms.chunks_exact(8).take(32).for_each(|harm| one(&mut files, harm));
    fs::create_dir_all(dir).expect("a folder");
    for file in files {
        fs::write(dir.join(file.name), file.bytes).expect("written");
    }
}

fn one(files: &mut Vec<File>, harm: &[u8]) {
    let [kind, value, rest @ ..] = harm else { return };
    let number = |at: usize| usize::from(u16::from_le_bytes([rest[at], rest[at + 1]]));
    let (count, which) = (files.len().max(1), usize::from(kind >> 4));
    let other = files.get(usize::from(*value) % count).map_or(Vec::new(), |file| file.bytes.clone());
    let Some(file) = files.get_mut(which % count) else { return };
    let from = number(0) % (file.bytes.len() + 1);
    let named =
        |name: &str, rest: &str| format!("{:016x}-{}", number(0) << (value % 64), name.get(17..).unwrap_or(rest));
    match kind & 15 {
        0..=2 => file.bytes.iter_mut().skip(from).take(1).for_each(|byte| *byte ^= value),
        3 => file.bytes.iter_mut().skip(from).take(number(4)).for_each(|byte| *byte = *value),
        // A piece of a file, this one or another, in another place.
        4 | 5 => {
            let piece = other.iter().skip(number(2)).take(number(4));
            file.bytes.iter_mut().skip(from).zip(piece).for_each(|(byte, new)| *byte = *new);
        }
        6 => file.bytes.truncate(from),
        7 => file.bytes.resize(file.bytes.len() + number(4), *value),
        8 => file.name = format!("{:016x}-{:08x}.seg", number(0) << (value % 64), number(2)),
        9 => file.name = named(&file.name, "a4fb5197.seg"),
        10 => file.name = format!("{:016x}.spare", number(0)),
        11 => drop(files.swap_remove(which % count)),
        12 if count < 6 => {
            let copy = File { name: named(&file.name, "61893a17.seg"), bytes: file.bytes.clone() };
            files.push(copy);
        }
        _ => file.bytes.insert(from, *value),
    }
}
