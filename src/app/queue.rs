//! What an operator sees of the queue and takes out of it. Everything is bounded: a request looks at so many messages,
//! and says whether there are more.

use std::collections::BTreeMap;

use crate::bridge::Stores;
use crate::bridge::devices::Devices;
use crate::control::{Answer, DeviceShare, Peeked, QueueStat, Which};
use crate::message::{HubMessage, Timestamp};
use crate::spool::Appender;

/// Messages that one request looks at.
const MOST_LOOKED_AT: usize = 200_000;
/// Devices told apart; the others are one.
const MOST_DEVICES: usize = 1_000;
/// Messages shown at once.
const MOST_SHOWN: usize = 1_000;
/// Bytes of a payload that are shown.
const EXCERPT: usize = 200;
/// Messages withdrawn by one request; the command asks again.
const MOST_WITHDRAWN: u64 = 50_000;

/// The spools in the order of sending.
fn spools(stores: &Stores) -> impl Iterator<Item = &Appender> {
    [&stores.urgent, &stores.normal].into_iter()
}

/// Calls `with` for each waiting message, in the order of the spools, until it says no; `None` is one that cannot be read.
fn each(stores: &Stores, mut with: impl FnMut(&Appender, u64, Option<HubMessage<'_>>) -> bool) {
    for spool in spools(stores) {
        let mut look = spool.look();
        while let Some(stored) = look.next_waiting() {
            if !with(spool, stored.seq, HubMessage::parse(&stored.record).ok()) {
                return;
            }
        }
    }
}

fn age(message: Option<&HubMessage<'_>>, now: Timestamp) -> u64 {
    let ms = message.map_or(0, |message| now.0.saturating_sub(message.created.0));
    u64::try_from(ms / 1_000).unwrap_or(0)
}

pub(super) fn stat(stores: &Stores, lines: Option<&Devices>) -> Answer {
    let (stats, now) = (stores.stats(), Timestamp::now());
    let mut devices: BTreeMap<String, DeviceShare> = BTreeMap::new();
    let (mut looked_at, mut oldest) = (0, 0);
    each(stores, |_, _, message| {
        looked_at += 1;
        let device = message.as_ref().map_or("(unreadable)", |message| message.device);
        let known = devices.len() < MOST_DEVICES || devices.contains_key(device);
        let share = devices.entry(if known { device } else { "(others)" }.to_owned()).or_default();
        let age = age(message.as_ref(), now);
        share.messages += 1;
        share.bytes += message.as_ref().map_or(0, |message| message.body.len() as u64);
        share.oldest_seconds = share.oldest_seconds.max(age);
        oldest = oldest.max(age);
        looked_at < MOST_LOOKED_AT
    });
    let mut shelved = 0;
    for (id, shelf) in lines.map(Devices::shares).unwrap_or_default() {
        shelved += shelf.messages;
        let known = devices.len() < MOST_DEVICES || devices.contains_key(&id);
        let share = devices.entry(if known { id } else { "(others)".to_owned() }).or_default();
        let age = u64::try_from(now.0.saturating_sub(shelf.oldest) / 1_000).unwrap_or(0);
        share.messages += shelf.messages;
        share.bytes += shelf.bytes;
        share.oldest_seconds = share.oldest_seconds.max(age);
    }
    Answer::Queue(QueueStat {
        shelved,
        waiting: stats.waiting,
        late: stats.late,
        disk_bytes: stats.disk_bytes,
        oldest_seconds: oldest,
        full: stats.full,
        looked_at: looked_at as u64,
        devices,
    })
}

/// A message as it is shown; its id is that of a spool and the number there, or one of its own.
fn peeked((spool, seq): (u64, u64), message: &HubMessage<'_>, now: Timestamp) -> Peeked {
    let text = String::from_utf8_lossy(message.body);
    let end = text.floor_char_boundary(EXCERPT);
    Peeked {
        message_id: message.own_id.map_or_else(|| format!("{spool:016x}-{seq}"), str::to_owned),
        number: seq,
        device: message.device.to_owned(),
        created: message.created.to_string(),
        age_seconds: age(Some(message), now),
        size: message.body.len() as u64,
        properties: message.properties().map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
        payload: text.get(..end).unwrap_or_default().to_owned(),
    }
}

/// Shows the messages that wait first: those of the spools, and those on shelves behind them. Of one device those on its
/// shelf are the older ones, as a rule, and come first.
pub(super) fn peek((stores, lines): (&Stores, Option<&Devices>), first: usize, device: Option<&str>) -> Answer {
    let (now, first) = (Timestamp::now(), first.min(MOST_SHOWN));
    let (mut shown, mut looked_at) = (Vec::new(), 0);
    let of_shelves = |shown: &mut Vec<Peeked>, looked_at: &mut usize| {
        let Some(lines) = lines else { return };
        let read = lines.each_shelved(device, |shelved| {
            *looked_at += 1;
            if let Ok(message) = HubMessage::parse(&shelved.record)
                && shown.len() < first
            {
                shown.push(peeked((shelved.spool, shelved.sequence), &message, now));
            }
            shown.len() < first && *looked_at < MOST_LOOKED_AT
        });
        if let Err(error) = read {
            tracing::warn!("a shelf cannot be read: {error}");
        }
    };
    if device.is_some() {
        of_shelves(&mut shown, &mut looked_at);
    }
    each(stores, |spool, seq, message| {
        looked_at += 1;
        let Some(message) = message else { return looked_at < MOST_LOOKED_AT };
        if shown.len() < first && device.is_none_or(|device| device == message.device) {
            shown.push(peeked((spool.id(), seq), &message, now));
        }
        shown.len() < first && looked_at < MOST_LOOKED_AT
    });
    if device.is_none() && shown.len() < first && looked_at < MOST_LOOKED_AT {
        of_shelves(&mut shown, &mut looked_at);
    }
    Answer::Peeked(shown)
}

/// Gives messages up, those on shelves first; returns how many, and whether there may be more.
pub(super) fn withdraw((stores, lines): (&Stores, Option<&Devices>), which: &Which) -> Answer {
    let now = Timestamp::now();
    let most = which.first.unwrap_or(u64::MAX).min(MOST_WITHDRAWN);
    let is_old =
        |message: Option<&HubMessage<'_>>| which.older_than_seconds.is_none_or(|seconds| age(message, now) > seconds);
    let of_shelves = lines
        .map(|lines| lines.withdraw(which.device.as_deref(), (most, MOST_LOOKED_AT), |message| is_old(Some(message))));
    let (mut messages, mut more) = match of_shelves {
        None => (0, false),
        Some(Ok(withdrawn)) => (withdrawn.messages, withdrawn.more),
        Some(Err(error)) => return Answer::Failed(format!("a shelf cannot be read: {error}")),
    };
    let (mut looked_at, mut scattered) = (0_usize, false);
    each(stores, |spool, seq, message| {
        if messages >= most || looked_at >= MOST_LOOKED_AT {
            more = true;
            return false;
        }
        looked_at += 1;
        if which.device.is_some() && !spool.may_scatter() {
            scattered = true;
            return false;
        }
        let of_device = which
            .device
            .as_ref()
            .is_none_or(|device| message.as_ref().is_some_and(|message| message.device == *device));
        if of_device && is_old(message.as_ref()) && spool.withdraw(seq) {
            messages += 1;
        }
        true
    });
    if messages > 0 {
        ::metrics::counter!("brownbridge_messages_shed_total", "reason" => "operator").increment(messages);
        tracing::warn!(messages, "an operator dropped messages from the queue");
    }
    Answer::Withdrawn { messages, more, scattered }
}
