//! STRING and WSTRING of Siemens S7: their maximum length, their actual length, and as much text.
//!
//! | | a length takes | the text |
//! |---|---|---|
//! | STRING | a byte | ISO 8859-1 |
//! | WSTRING | two, big-endian | UTF-16, big-endian |
//!
//! The bytes between the actual length and the maximum are what earlier texts left there.

/// The longest that one can be declared.
pub(in crate::rules) fn longest(wide: bool) -> usize {
    if wide { 16_382 } else { 254 }
}

/// How many bytes one of that maximum length takes.
pub(in crate::rules) fn size(length: usize, wide: bool) -> usize {
    if wide { length.saturating_mul(2).saturating_add(4) } else { length.saturating_add(2) }
}

/// The text of all its bytes, as far as they go.
pub(super) fn read(bytes: &[u8], wide: bool) -> String {
    if wide {
        let mut units =
            bytes.chunks_exact(2).map(|unit| unit.iter().fold(0, |unit, byte| unit << 8 | u16::from(*byte)));
        let length = units.by_ref().nth(1).unwrap_or(0);
        let text = char::decode_utf16(units.take(usize::from(length)));
        return text.map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER)).collect();
    }
    let length = bytes.get(1).copied().unwrap_or(0);
    bytes.iter().skip(2).take(usize::from(length)).map(|byte| char::from(*byte)).collect()
}

/// Writes a text with its lengths over all of a place; says why where that cannot be.
pub(in crate::rules) fn write(text: &str, wide: bool, place: &mut [u8]) -> Result<(), &'static str> {
    let most = if wide { (place.len() / 2).saturating_sub(2) } else { place.len().saturating_sub(2) };
    let units: Vec<u16> = match wide {
        true => text.encode_utf16().collect(),
        false => text
            .chars()
            .map(|c| u8::try_from(c).map(u16::from))
            .collect::<Result<_, _>>()
            .map_err(|_| "has characters that are not in ISO 8859-1")?,
    };
    if units.len() > most {
        return Err("is longer");
    }
    let lengths = [most, units.len()].map(|length| u16::try_from(length).unwrap_or(u16::MAX));
    let bytes = lengths.into_iter().chain(units).flat_map(|unit| {
        let [high, low] = unit.to_be_bytes();
        [wide.then_some(high), Some(low)].into_iter().flatten()
    });
    place.iter_mut().zip(bytes.chain(std::iter::repeat(0))).for_each(|(place, byte)| *place = byte);
    Ok(())
}
