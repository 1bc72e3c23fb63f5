//! Operators and the order of values, as jq has them.

use std::cmp::Ordering;
use std::ops::{Add, Div, Mul, Neg, Rem, Sub};
use std::rc::Rc;

use jaq_core::{Error, ValR};

use super::{List, Object, Val, spend, spent};

impl Add for Val {
    type Output = ValR<Self>;

    fn add(self, other: Self) -> Self::Output {
        match (self, other) {
            (Self::Null, value) | (value, Self::Null) => Ok(value),
            (Self::Text(a), Self::Text(b)) => match spend((a.len() + b.len()) / 8) {
                true => Ok(Self::from([&*a, &*b].concat())),
                false => spent(),
            },
            (Self::List(a), Self::List(b)) => {
                let shared = if Rc::strong_count(&a) > 1 { a.items.len() } else { 0 };
                let size = b.items.iter().fold(a.size, |size, item| size.with(item.size()));
                if !spend(shared + b.items.len()) || Self::is_too_large(size) {
                    return spent();
                }
                let mut items = Rc::unwrap_or_clone(a).items;
                items.extend(b.items.iter().cloned());
                Ok(Self::List(Rc::new(List { items, size })))
            }
            (Self::Object(a), Self::Object(b)) => {
                let mut members = Rc::unwrap_or_clone(a).members;
                if !spend(members.len() + b.members.len()) {
                    return spent();
                }
                members.extend(b.members.iter().map(|(key, value)| (Rc::clone(key), value.clone())));
                Ok(Self::object(members))
            }
            (a, b) => a.arithmetic(jaq_core::ops::Math::Add, b, |a, b| a + b),
        }
    }
}

impl Sub for Val {
    type Output = ValR<Self>;

    fn sub(self, other: Self) -> Self::Output {
        match (self, other) {
            (Self::List(a), Self::List(b)) => {
                if !spend(a.items.len().saturating_mul(b.items.len())) {
                    return spent();
                }
                Ok(Self::list(a.items.iter().filter(|item| !b.items.contains(item)).cloned().collect()))
            }
            (a, b) => a.arithmetic(jaq_core::ops::Math::Sub, b, |a, b| a - b),
        }
    }
}

impl Mul for Val {
    type Output = ValR<Self>;

    fn mul(self, other: Self) -> Self::Output {
        match (self, other) {
            (Self::Text(text), Self::Int(times)) | (Self::Int(times), Self::Text(text)) => match usize::try_from(times)
            {
                Ok(times) if times > 0 => match spend(text.len().saturating_mul(times)) {
                    true => Ok(Self::from(text.repeat(times))),
                    false => spent(),
                },
                _ => Ok(Self::Null),
            },
            (Self::Object(a), Self::Object(b)) => merge(a, &b),
            (a, b) => a.arithmetic(jaq_core::ops::Math::Mul, b, |a, b| a * b),
        }
    }
}

/// Objects into one another, as deep as they go.
fn merge(a: Rc<Object>, b: &Object) -> ValR<Val> {
    let mut members = Rc::unwrap_or_clone(a).members;
    if !spend(members.len() + b.members.len()) {
        return spent();
    }
    for (key, value) in &b.members {
        let merged = match (members.get(key), value) {
            (Some(Val::Object(old)), Val::Object(new)) => merge(Rc::clone(old), new)?,
            _ => value.clone(),
        };
        members.insert(Rc::clone(key), merged);
    }
    Ok(Val::object(members))
}

impl Div for Val {
    type Output = ValR<Self>;

    fn div(self, other: Self) -> Self::Output {
        match (&self, &other) {
            (Self::Text(text), Self::Text(by)) => {
                if !spend(text.len()) {
                    return spent();
                }
                let parts: Vec<Self> = match (text.is_empty(), by.is_empty()) {
                    (true, _) => Vec::new(),
                    (false, true) => text.chars().map(|c| Self::text(c.encode_utf8(&mut [0; 4]))).collect(),
                    (false, false) => text.split(&**by).map(Self::text).collect(),
                };
                Ok(Self::list(parts))
            }
            (_, by) if by.as_number() == Some(0.0) && self.as_number().is_some() => {
                Err(Error::str(format_args!("{self} is divided by zero")))
            }
            _ => self.arithmetic(jaq_core::ops::Math::Div, other, |a, b| a / b),
        }
    }
}

impl Rem for Val {
    type Output = ValR<Self>;

    fn rem(self, other: Self) -> Self::Output {
        match other.as_number() {
            Some(0.0) if self.as_number().is_some() => Err(Error::str(format_args!("{self} is divided by zero"))),
            _ => self.arithmetic(jaq_core::ops::Math::Rem, other, |a, b| a % b),
        }
    }
}

impl Neg for Val {
    type Output = ValR<Self>;

    fn neg(self) -> Self::Output {
        match self.as_number() {
            Some(value) => Ok(Self::number(-value)),
            None => Err(Error::typ(self, "number")),
        }
    }
}

impl Ord for Val {
    fn cmp(&self, other: &Self) -> Ordering {
        spend(self.size().weight.min(other.size().weight));
        match (self, other) {
            (Self::Text(a), Self::Text(b)) => a.cmp(b),
            (Self::List(a), Self::List(b)) => a.items.cmp(&b.items),
            (Self::Object(a), Self::Object(b)) => {
                let sorted = |object: &Object| {
                    let mut members: Vec<(Rc<str>, Self)> =
                        object.members.iter().map(|(key, value)| (Rc::clone(key), value.clone())).collect();
                    members.sort_by(|(a, _), (b, _)| a.cmp(b));
                    members
                };
                let (a, b) = (sorted(a), sorted(b));
                let keys = a.iter().map(|(key, _)| key).cmp(b.iter().map(|(key, _)| key));
                keys.then_with(|| a.iter().map(|(_, value)| value).cmp(b.iter().map(|(_, value)| value)))
            }
            (a, b) => match (a.as_number(), b.as_number()) {
                (Some(a), Some(b)) if a == b => Ordering::Equal,
                (Some(a), Some(b)) => a.total_cmp(&b),
                _ => a.rank().cmp(&b.rank()),
            },
        }
    }
}

impl PartialOrd for Val {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Val {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Val {}
