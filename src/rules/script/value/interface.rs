//! What jaq asks of its values, each answer with its cost.

use std::rc::Rc;

use indexmap::IndexMap;
use jaq_core::box_iter::BoxIter;
use jaq_core::path::Opt;
use jaq_core::val::Range;
use jaq_core::{Error, Exn, ValR, ValX};

use super::{EXACT, Val, spend, spent};

impl jaq_core::ValT for Val {
    fn from_num(text: &str) -> ValR<Self> {
        Ok(Self::of_number(text))
    }

    fn from_map<I: IntoIterator<Item = (Self, Self)>>(entries: I) -> ValR<Self> {
        let mut members = IndexMap::new();
        for (key, value) in entries {
            match key {
                _ if !spend(1) => return spent(),
                Self::Text(key) => members.insert(key, value),
                other => return Err(Error::typ(other, "string")),
            };
        }
        Ok(Self::object(members))
    }

    fn key_values(self) -> BoxIter<'static, ValR<(Self, Self), Self>> {
        if !spend(self.size().weight) {
            return Box::new(std::iter::once(spent()));
        }
        match self {
            Self::List(list) => {
                let items = Rc::unwrap_or_clone(list).items.into_iter().enumerate();
                Box::new(items.map(|(index, value)| Ok((Self::from(index), value))))
            }
            Self::Object(object) => {
                let members = Rc::unwrap_or_clone(object).members.into_iter();
                Box::new(members.map(|(key, value)| Ok((Self::Text(key), value))))
            }
            other => Box::new(std::iter::once(Err(Error::typ(other, "iterable (array or object)")))),
        }
    }

    fn values(self) -> Box<dyn Iterator<Item = ValR<Self>>> {
        Box::new(self.key_values().map(|entry| entry.map(|(_, value)| value)))
    }

    fn index(self, index: &Self) -> ValR<Self> {
        if !spend(1) {
            return spent();
        }
        let found = match (&self, index) {
            (Self::Null, _) => None,
            (Self::Object(object), Self::Text(key)) => object.members.get(key).cloned(),
            (Self::List(list), index) if index.as_number().is_some() => {
                Self::place(index, list.items.len()).and_then(|at| list.items.get(at)).cloned()
            }
            _ => return self.cannot_index(index),
        };
        Ok(found.unwrap_or(Self::Null))
    }

    fn range(self, range: Range<&Self>) -> ValR<Self> {
        if !spend(self.size().weight) {
            return spent();
        }
        match &self {
            Self::Null => Ok(Self::Null),
            Self::List(list) => {
                let bounds = Self::bounds(&range, list.items.len())?;
                Ok(Self::list(list.items.get(bounds).unwrap_or(&[]).to_vec()))
            }
            Self::Text(text) => {
                let bounds = Self::bounds(&range, text.chars().count())?;
                Ok(Self::from(text.chars().skip(bounds.start).take(bounds.len()).collect::<String>()))
            }
            _ => Err(Error::typ(self, "rangeable (array or string)")),
        }
    }

    fn map_values<'a, I: Iterator<Item = ValX<'a, Self>>>(self, opt: Opt, f: impl Fn(Self) -> I) -> ValX<'a, Self> {
        if !spend(self.size().weight) {
            return Ok(spent()?);
        }
        match self {
            Self::List(list) => {
                let items = Rc::unwrap_or_clone(list).items.into_iter().flat_map(f);
                Ok(Self::list(items.collect::<Result<_, _>>()?))
            }
            Self::Object(object) => {
                let members = Rc::unwrap_or_clone(object).members.into_iter();
                let mapped = members.filter_map(|(key, value)| Some(f(value).next()?.map(|value| (key, value))));
                Ok(Self::object(mapped.collect::<Result<_, _>>()?))
            }
            other => opt.fail(other, |value| Exn::from(Error::typ(value, "iterable (array or object)"))),
        }
    }

    fn map_index<'a, I: Iterator<Item = ValX<'a, Self>>>(
        self,
        index: &Self,
        opt: Opt,
        f: impl Fn(Self) -> I,
    ) -> ValX<'a, Self> {
        let length = match &self {
            Self::List(list) => list.items.len(),
            Self::Object(object) => object.members.len(),
            _ => 0,
        };
        if !spend(length) {
            return Ok(spent()?);
        }
        match (self, index) {
            (Self::Null, Self::Text(_)) => Self::object(IndexMap::new()).map_index(index, opt, f),
            (Self::Object(object), Self::Text(key)) => {
                let mut members = Rc::unwrap_or_clone(object).members;
                let old = members.get(key).cloned().unwrap_or(Self::Null);
                match f(old).next().transpose()? {
                    Some(new) => drop(members.insert(Rc::clone(key), new)),
                    None => drop(members.shift_remove(key)),
                }
                Ok(Self::object(members))
            }
            (Self::List(list), index) if index.as_number().is_some() => {
                let mut items = Rc::unwrap_or_clone(list).items;
                let Some(at) = Self::place(index, items.len()).filter(|at| *at < items.len()) else {
                    let fail = |_| Exn::from(Error::str(format_args!("index {index} out of bounds")));
                    return opt.fail(Self::list(items), fail);
                };
                let old = items.get(at).cloned().unwrap_or(Self::Null);
                match (f(old).next().transpose()?, items.get_mut(at)) {
                    (Some(new), Some(place)) => *place = new,
                    _ => drop(items.remove(at)),
                }
                Ok(Self::list(items))
            }
            (other, _) => opt.fail(other, |value| Exn::from(Error::index(value, index.clone()))),
        }
    }

    fn map_range<'a, I: Iterator<Item = ValX<'a, Self>>>(
        self,
        range: Range<&Self>,
        opt: Opt,
        f: impl Fn(Self) -> I,
    ) -> ValX<'a, Self> {
        if !spend(self.size().weight) {
            return Ok(spent()?);
        }
        let Self::List(list) = self else {
            return opt.fail(self, |value| Exn::from(Error::typ(value, "array")));
        };
        let mut items = Rc::unwrap_or_clone(list).items;
        let bounds = Self::bounds(&range, items.len())?;
        let part = Self::list(items.get(bounds.clone()).unwrap_or(&[]).to_vec());
        match f(part).next().transpose()? {
            Some(Self::List(new)) => drop(items.splice(bounds, new.items.iter().cloned())),
            Some(other) => return Err(Exn::from(Error::typ(other, "array"))),
            None => drop(items.drain(bounds)),
        }
        Ok(Self::list(items))
    }

    fn as_bool(&self) -> bool {
        !matches!(self, Self::Null | Self::Bool(false))
    }

    fn into_string(self) -> Self {
        match self {
            Self::Text(_) => self,
            other => other.to_json().map_or(Self::Null, Self::from),
        }
    }
}

impl jaq_std::ValT for Val {
    fn into_seq<S: FromIterator<Self>>(self) -> Result<S, Self> {
        match self {
            Self::List(list) => {
                // What is made of a sequence is most often sorted.
                spend(list.items.len() * 8);
                Ok(Rc::unwrap_or_clone(list).items.into_iter().collect())
            }
            other => Err(other),
        }
    }

    fn is_int(&self) -> bool {
        matches!(self, Self::Int(_))
    }

    fn as_isize(&self) -> Option<isize> {
        match self {
            Self::Int(value) => Some(*value),
            _ => None,
        }
    }

    fn as_f64(&self) -> Option<f64> {
        self.as_number()
    }

    fn is_utf8_str(&self) -> bool {
        matches!(self, Self::Text(_))
    }

    fn as_bytes(&self) -> Option<&[u8]> {
        match self {
            Self::Text(text) if spend(text.len()) => Some(text.as_bytes()),
            _ => None,
        }
    }

    fn as_sub_str(&self, sub: &[u8]) -> Self {
        Self::text(&String::from_utf8_lossy(sub))
    }

    fn from_utf8_bytes(bytes: impl AsRef<[u8]> + Send + 'static) -> Self {
        spend(bytes.as_ref().len());
        Self::text(&String::from_utf8_lossy(bytes.as_ref()))
    }
}

impl From<bool> for Val {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<isize> for Val {
    fn from(value: isize) -> Self {
        spend(0);
        Self::Int(value.clamp(-EXACT, EXACT))
    }
}

impl From<usize> for Val {
    fn from(value: usize) -> Self {
        Self::from(isize::try_from(value).unwrap_or(EXACT))
    }
}

impl From<f64> for Val {
    fn from(value: f64) -> Self {
        Self::number(value)
    }
}

impl From<String> for Val {
    fn from(text: String) -> Self {
        spend(text.len() / 8);
        Self::Text(Rc::from(text))
    }
}

impl From<Range<Self>> for Val {
    fn from(range: Range<Self>) -> Self {
        let bounds = [("start", range.start), ("end", range.end)];
        Self::object(bounds.into_iter().filter_map(|(key, value)| Some((Rc::from(key), value?))).collect())
    }
}

impl FromIterator<Self> for Val {
    fn from_iter<T: IntoIterator<Item = Self>>(items: T) -> Self {
        Self::list(items.into_iter().take_while(|_| spend(0)).collect())
    }
}
