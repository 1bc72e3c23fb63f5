//! The life of one connection: handshake, session, traffic, will.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use bytestring::ByteString;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::census::Client;
use super::clients::{Entered, Terms};
use super::connection::Connection;
use super::listen::Peer;
use super::presence::Who;
use super::session::{DelayedWill, after};
use super::wire::Close;
use super::{Ingest, Offer, Shared, gate, handshake, presence, upkeep};
use crate::message::{self, Timestamp};

/// How long an end waits until its will and its event, once taken, are written; and how long that may take after the stop.
const PATIENCE: Duration = Duration::from_secs(5);
const LAST: Duration = Duration::from_secs(1);

/// Serves one socket from its first byte to its end.
pub(super) async fn serve<S, I>(mut stream: S, peer: impl Into<Peer>, shared: &Shared<I>)
where
    S: AsyncRead + AsyncWrite + Unpin,
    I: Ingest,
{
    let peer = peer.into();
    let Some(visit) = shared.doors.enter(peer.address) else {
        return shared.metrics.connection_closed("connections_per_address");
    };
    let mut input = BytesMut::new();
    let connect = handshake::connect(&mut stream, &mut input, &shared.options);
    let connected = tokio::select! {
        biased;
        () = shared.stop.cancelled() => return,
        connected = tokio::time::timeout(shared.options.connect_timeout, connect) => {
            connected.unwrap_or(Err("connect_timeout"))
        }
    };
    let connected = match connected {
        Ok(connected) => connected,
        Err(reason) => {
            shared.metrics.connection_closed(reason);
            if reason == handshake::PROBED {
                tracing::debug!(%peer, reason, "a connection without a byte");
                return;
            }
            shared.metrics.log_pace(reason, |left_out| {
                tracing::warn!(%peer, reason, left_out, "a client was refused before it connected");
            });
            return;
        }
    };
    let admitted = gate::admit(&mut stream, connected, (peer.address, &visit), shared).await;
    let Some(mut connected) = admitted else { return };
    let client_id = ByteString::from(&*connected.client_id);
    let will = connected.will.take();
    let terms = Terms {
        clean_start: connected.clean_start,
        expiry: connected.session_expiry,
        receive_max: connected.receive_max,
    };
    let will_delay = connected.will_delay;
    let Some(entered) = shared.router.enter(client_id.clone(), terms).await else {
        tracing::debug!(%peer, client = message::excerpt(&client_id), "taken over before it was let in");
        return shared.metrics.connection_closed(Close::TakenOver.label());
    };
    let Entered { place, present, will: earlier_will } = entered;
    if let Some(earlier) = earlier_will {
        Box::pin(publish_will(&earlier, &client_id, Close::Lost, shared)).await;
    }
    tracing::debug!(%peer, client = message::excerpt(&client_id), "connected");
    shared.metrics.connections.increment(1);
    let entry = shared.router.census.enter(Client {
        client_id: message::excerpt(&client_id).to_owned(),
        address: peer.address,
        via: peer.via,
        version: connected.version,
        keep_alive: connected.keep_alive,
        since: Timestamp::now(),
    });
    let who = Who { client: &client_id, address: peer.address };
    presence::came(who, shared);
    let mut told = None;
    let counted = Arc::clone(&entry.presence);
    let (close, place, mut badge) = Connection::new(stream, input, connected, (place, present, counted), shared)
        .run(|close| told = presence::goes(who, close, shared))
        .await;
    drop(entry);
    shared.metrics.connections.decrement(1);
    shared.metrics.connection_closed(close.label());
    if close.is_fault() {
        shared.metrics.log_pace(close.label(), |left_out| {
            tracing::warn!(%peer, client = message::excerpt(&client_id), reason = close.label(), left_out, "a client's connection was closed");
        });
    } else {
        tracing::debug!(%peer, client = message::excerpt(&client_id), reason = close.label(), "disconnected");
    }
    let mut will = will.filter(|_| close.publishes_will());
    if will.as_ref().is_some_and(|will| !badge.may_publish(&will.topic)) {
        will = None; // Its rights have changed since CONNECT.
        shared.metrics.publishes_received.increment(1);
        shared.metrics.dropped("not_authorized");
    }
    // It waits at most until the session ends ([MQTT-3.1.3-9], 3.1.3.2.2).
    let wait = will_delay.min(place.session.expiry());
    let due = if wait == 0 { Some(Instant::now()) } else { after(wait) };
    let user = badge.user_of_will();
    let mut will = will.zip(due).map(|(publish, due)| DelayedWill { publish, user, due });
    let delayed = if wait == 0 { None } else { will.take() };
    upkeep::settle(place.leave(delayed), close, shared).await;
    let told = presence::settle(told, who, shared);
    match will {
        // The will first: where one place is left, it has that.
        Some(will) => _ = tokio::join!(publish_will(&will, &client_id, close, shared), told),
        None => told.await,
    }
}

/// Waits until what was taken is written, as long as the disk writes: a disk that is full must not hold up the ends of
/// sessions, nor that of the program. Beyond that it goes on by itself, in its place: a part may be stored already, and
/// the rest is stored by nothing but this future.
pub(super) async fn wait_for_disk<I>(
    written: Pin<Box<dyn Future<Output = ()> + Send>>,
    place: OwnedSemaphorePermit,
    shared: &Shared<I>,
) {
    let stop = shared.stop.clone();
    let stopped = async move {
        stop.cancelled().await;
        tokio::time::sleep(LAST).await;
    };
    let mut written = Box::pin(async move {
        let _place = place;
        tokio::select! {
            biased;
            () = written => {}
            () = stopped => {}
        }
    });
    if tokio::time::timeout(PATIENCE, &mut written).await.is_err() {
        shared.tasks.spawn(written);
    }
}

/// Publishes a will as if its client had. It may wait like any publish, but nobody is there to be slowed down by
/// that: a client that comes and goes while there is no room must not fill all places, so few may wait.
pub(super) async fn publish_will<I: Ingest>(will: &DelayedWill, client: &str, close: Close, shared: &Shared<I>) {
    let DelayedWill { publish: will, user, .. } = will;
    shared.router.route(None, will);
    let publish = message::Publish {
        topic: &will.topic,
        payload: &will.payload,
        client,
        user: user.as_deref(),
        qos: will.qos.value(),
        retain: will.retain,
        received: Timestamp::now(),
    };
    let mut scratch = shared.ingest.scratch();
    let mut answer = shared.ingest.offer(&mut scratch, &publish);
    shared.metrics.publishes_received.increment(1);
    let mut place = Arc::clone(&shared.wills).try_acquire_owned().ok();
    loop {
        match answer {
            Offer::Taken(_) => return,
            Offer::TakenAfter(written, _) => {
                let Some(place) = place.take() else { return };
                return wait_for_disk(written, place, shared).await;
            }
            Offer::Full if close == Close::ShuttingDown || shared.stop.is_cancelled() => {
                return shared.metrics.dropped("will_at_shutdown");
            }
            Offer::Full if place.is_none() => return shared.metrics.dropped("will_without_room"),
            Offer::Full => {
                tokio::select! {
                    () = shared.ingest.room(&scratch) => {}
                    () = shared.stop.cancelled() => {}
                }
            }
        }
        answer = shared.ingest.offer(&mut scratch, &publish);
    }
}
