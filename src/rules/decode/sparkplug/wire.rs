//! The protobuf messages of Sparkplug B, read by hand: five messages with scalar fields need no generated code.

use std::fmt;

use super::super::quality::Grade;

/// Datatypes of the specification that are not read as they come.
pub(super) mod code {
    pub(in super::super) const INT8: u32 = 1;
    pub(in super::super) const INT16: u32 = 2;
    pub(in super::super) const INT32: u32 = 3;
    pub(in super::super) const INT64: u32 = 4;
    pub(in super::super) const DATE_TIME: u32 = 13;
    pub(in super::super) const FIRST_ARRAY: u32 = 22;
    pub(in super::super) const FLOAT_ARRAY: u32 = 30;
    pub(in super::super) const DOUBLE_ARRAY: u32 = 31;
    pub(in super::super) const BOOLEAN_ARRAY: u32 = 32;
    pub(in super::super) const STRING_ARRAY: u32 = 33;
    pub(in super::super) const LAST_ARRAY: u32 = 34;

    /// Bytes of an element of an array of numbers or times.
    pub(in super::super) fn array_size(datatype: u32) -> usize {
        match datatype {
            22 | 26 => 1,
            23 | 27 => 2,
            24 | 28 | FLOAT_ARRAY => 4,
            _ => 8,
        }
    }

    /// The datatype of the elements of an array of integers.
    pub(in super::super) fn element(datatype: u32) -> u32 {
        datatype.saturating_sub(21)
    }
}

/// Metrics of one payload at most.
const MAX_METRICS: usize = 100_000;

/// Why bytes are no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) at: usize,
    pub(super) what: &'static str,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.at {
            0 => f.write_str(self.what),
            at => write!(f, "at byte {at} {}", self.what),
        }
    }
}

/// A payload.
#[derive(Debug, Default)]
pub(super) struct Payload<'p> {
    pub(super) timestamp: Option<u64>,
    pub(super) seq: Option<u64>,
    pub(super) metrics: Vec<Metric<'p>>,
}

/// A metric.
#[derive(Debug, Default)]
pub(super) struct Metric<'p> {
    pub(super) name: Option<&'p str>,
    pub(super) alias: Option<u64>,
    pub(super) timestamp: Option<u64>,
    pub(super) datatype: Option<u32>,
    /// It was not sent when it was measured.
    pub(super) is_historical: bool,
    pub(super) is_null: bool,
    /// What its property `Quality` says.
    pub(super) grade: Grade,
    pub(super) value: Option<Value<'p>>,
}

/// The value of a metric.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Value<'p> {
    Int(u32),
    Long(u64),
    Float(f32),
    Double(f64),
    Bool(bool),
    Text(&'p str),
    Bytes(&'p [u8]),
    DataSet(&'p [u8]),
    Template(&'p [u8]),
}

/// A table of values.
#[derive(Debug, Default)]
pub(super) struct DataSet<'p> {
    pub(super) columns: Vec<&'p str>,
    pub(super) types: Vec<u32>,
    pub(super) rows: Vec<&'p [u8]>,
}

impl<'p> Payload<'p> {
    pub(super) fn read(bytes: &'p [u8]) -> Result<Self, Fault> {
        let mut payload = Self::default();
        let mut fields = Fields { bytes, at: 0 };
        while let Some((number, field)) = fields.next()? {
            match number {
                1 => payload.timestamp = Some(fields.varint(field)?),
                2 if payload.metrics.len() >= MAX_METRICS => return Err(fields.fault("there are too many metrics")),
                2 => payload.metrics.push(fields.inside(field, Metric::read)?),
                3 => payload.seq = Some(fields.varint(field)?),
                _ => {}
            }
        }
        Ok(payload)
    }
}

impl<'p> Metric<'p> {
    fn read(bytes: &'p [u8]) -> Result<Self, Fault> {
        let mut metric = Self::default();
        let mut fields = Fields { bytes, at: 0 };
        while let Some((number, field)) = fields.next()? {
            match number {
                1 => metric.name = Some(fields.text(field)?),
                2 => metric.alias = Some(fields.varint(field)?),
                3 => metric.timestamp = Some(fields.varint(field)?),
                4 => metric.datatype = Some(fields.narrow(field)?),
                5 => metric.is_historical = fields.varint(field)? != 0,
                7 => metric.is_null = fields.varint(field)? != 0,
                9 => metric.grade = fields.inside(field, grade)?,
                10 => metric.value = Some(Value::Int(fields.narrow(field)?)),
                11 => metric.value = Some(Value::Long(fields.varint(field)?)),
                12 => metric.value = Some(Value::Float(f32::from_bits(fields.fixed32(field)?))),
                13 => metric.value = Some(Value::Double(f64::from_bits(fields.fixed64(field)?))),
                14 => metric.value = Some(Value::Bool(fields.varint(field)? != 0)),
                15 => metric.value = Some(Value::Text(fields.text(field)?)),
                16 => metric.value = Some(Value::Bytes(fields.message(field)?)),
                17 => metric.value = Some(Value::DataSet(fields.message(field)?)),
                18 => metric.value = Some(Value::Template(fields.message(field)?)),
                _ => {}
            }
        }
        Ok(metric)
    }
}

/// What a set of properties says of the quality. Its keys and values are lists of the same length.
fn grade(bytes: &[u8]) -> Result<Grade, Fault> {
    let (mut keys, mut place) = (0, None);
    let mut fields = Fields { bytes, at: 0 };
    while let Some((number, field)) = fields.next()? {
        if number == 1 {
            if fields.message(field)? == b"Quality" {
                place = Some(keys);
            }
            keys += 1;
        }
    }
    let mut values = 0;
    let mut fields = Fields { bytes, at: 0 };
    while let Some((number, field)) = fields.next()? {
        if number == 2 {
            if place == Some(values) {
                return fields.inside(field, grade_of_value);
            }
            values += 1;
        }
    }
    Ok(Grade::Good)
}

fn grade_of_value(bytes: &[u8]) -> Result<Grade, Fault> {
    const STALE: i64 = 500;
    let mut grade = Grade::Good;
    let mut fields = Fields { bytes, at: 0 };
    while let Some((number, field)) = fields.next()? {
        let code = match number {
            2 if fields.varint(field)? != 0 => return Ok(Grade::Good),
            3 => i64::from(fields.narrow(field)?.cast_signed()),
            4 => fields.varint(field)?.cast_signed(),
            _ => continue,
        };
        grade = match code {
            STALE => Grade::Stale,
            code if Grade::is_good_code(code) => Grade::Good,
            _ => Grade::Bad,
        };
    }
    Ok(grade)
}

/// The metrics of a template.
pub(super) fn template(bytes: &[u8]) -> Result<Vec<Metric<'_>>, Fault> {
    let mut metrics = Vec::new();
    let mut fields = Fields { bytes, at: 0 };
    while let Some((number, field)) = fields.next()? {
        if number == 2 {
            metrics.push(Metric::read(fields.message(field)?)?);
        }
    }
    Ok(metrics)
}

impl<'p> DataSet<'p> {
    pub(super) fn read(bytes: &'p [u8]) -> Result<Self, Fault> {
        let mut set = Self::default();
        let mut fields = Fields { bytes, at: 0 };
        while let Some((number, field)) = fields.next()? {
            match (number, field) {
                (2, field) => set.columns.push(fields.text(field)?),
                (3, Field::Varint(_)) => set.types.push(fields.narrow(field)?),
                (3, Field::Bytes(packed)) => {
                    let mut inner = Fields { bytes: packed, at: 0 };
                    while inner.at < packed.len() {
                        let value = inner.number()?;
                        set.types.push(u32::try_from(value).unwrap_or(0));
                    }
                }
                (4, field) => set.rows.push(fields.message(field)?),
                _ => {}
            }
        }
        Ok(set)
    }
}

/// The values of a row.
pub(super) fn row(bytes: &[u8]) -> Result<Vec<Option<Value<'_>>>, Fault> {
    let mut values = Vec::new();
    let mut fields = Fields { bytes, at: 0 };
    while let Some((number, field)) = fields.next()? {
        if number == 1 {
            values.push(element(fields.message(field)?)?);
        }
    }
    Ok(values)
}

fn element(bytes: &[u8]) -> Result<Option<Value<'_>>, Fault> {
    let mut value = None;
    let mut fields = Fields { bytes, at: 0 };
    while let Some((number, field)) = fields.next()? {
        value = Some(match number {
            1 => Value::Int(fields.narrow(field)?),
            2 => Value::Long(fields.varint(field)?),
            3 => Value::Float(f32::from_bits(fields.fixed32(field)?)),
            4 => Value::Double(f64::from_bits(fields.fixed64(field)?)),
            5 => Value::Bool(fields.varint(field)? != 0),
            6 => Value::Text(fields.text(field)?),
            _ => continue,
        });
    }
    Ok(value)
}

/// A field by its wire type.
#[derive(Debug, Clone, Copy)]
enum Field<'p> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'p [u8]),
    Fixed32(u32),
}

struct Fields<'p> {
    bytes: &'p [u8],
    at: usize,
}

impl<'p> Fields<'p> {
    fn next(&mut self) -> Result<Option<(u64, Field<'p>)>, Fault> {
        if self.at >= self.bytes.len() {
            return Ok(None);
        }
        let key = self.number()?;
        let field = match key & 7 {
            0 => Field::Varint(self.number()?),
            1 => Field::Fixed64(u64::from_le_bytes(self.array()?)),
            2 => {
                let length = usize::try_from(self.number()?).unwrap_or(usize::MAX);
                let end = self.at.saturating_add(length);
                let bytes = self.bytes.get(self.at..end).ok_or(self.fault("a field is longer than what is left"))?;
                self.at = end;
                Field::Bytes(bytes)
            }
            5 => Field::Fixed32(u32::from_le_bytes(self.array()?)),
            _ => return Err(self.fault("there is no such wire type")),
        };
        Ok(Some((key >> 3, field)))
    }

    fn number(&mut self) -> Result<u64, Fault> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = *self.bytes.get(self.at).ok_or(self.fault("a number is cut short"))?;
            self.at += 1;
            value |= u64::from(byte & 0x7F) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(self.fault("a number is too long"))
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        let rest = self.bytes.get(self.at..).and_then(|rest| rest.first_chunk()).copied();
        let array = rest.ok_or(self.fault("a number is cut short"))?;
        self.at += N;
        Ok(array)
    }

    fn varint(&self, field: Field<'p>) -> Result<u64, Fault> {
        match field {
            Field::Varint(value) => Ok(value),
            _ => Err(self.wrong_type()),
        }
    }

    /// The low 32 bits: negative numbers come with the upper ones set.
    fn narrow(&self, field: Field<'p>) -> Result<u32, Fault> {
        self.varint(field).map(|value| u32::try_from(value & 0xFFFF_FFFF).unwrap_or(0))
    }

    fn fixed32(&self, field: Field<'p>) -> Result<u32, Fault> {
        match field {
            Field::Fixed32(value) => Ok(value),
            _ => Err(self.wrong_type()),
        }
    }

    fn fixed64(&self, field: Field<'p>) -> Result<u64, Fault> {
        match field {
            Field::Fixed64(value) => Ok(value),
            _ => Err(self.wrong_type()),
        }
    }

    fn message(&self, field: Field<'p>) -> Result<&'p [u8], Fault> {
        match field {
            Field::Bytes(bytes) => Ok(bytes),
            _ => Err(self.wrong_type()),
        }
    }

    /// Reads a message in the message. The place of a fault counts from the beginning of the outer one.
    fn inside<T>(&self, field: Field<'p>, read: impl FnOnce(&'p [u8]) -> Result<T, Fault>) -> Result<T, Fault> {
        let inside = self.message(field)?;
        let start = self.at - inside.len();
        read(inside).map_err(|fault| Fault { at: fault.at + start, ..fault })
    }

    fn text(&self, field: Field<'p>) -> Result<&'p str, Fault> {
        std::str::from_utf8(self.message(field)?).map_err(|_| self.fault("a text is no UTF-8"))
    }

    fn wrong_type(&self) -> Fault {
        self.fault("a field has the wrong wire type")
    }

    fn fault(&self, what: &'static str) -> Fault {
        Fault { at: self.at, what }
    }
}
