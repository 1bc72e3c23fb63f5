//! Makes a `rumqttc` client and event loop for one connection, and puts its errors into words.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rumqttc::{
    AsyncClient, ConnectReturnCode, ConnectionError, EventLoop, Incoming, MqttOptions, NetworkOptions, Outgoing, QoS,
    StateError, TlsConfiguration, TlsError, Transport, mqttbytes,
};

use super::down::Down;
use super::relay::{Failed, Relay};
use super::subscribed::Subscribed;
use super::target::Login;
use super::wire::{Broken, Dial, Event, Sender, Wire};
use super::{Options, Target};
use crate::hub::broken::{has_hung_up, in_words, is_broken, looks_blocked};
use crate::hub::limits::D2C_MAX_BYTES;
use crate::hub::refused::{REFUSED_CERTIFICATE, is_identity, refused, tls_hint};

/// Time to connect, and also (it is the same setting in `rumqttc`) to flush a publish into the socket.
const NETWORK_TIMEOUT: Duration = Duration::from_secs(30);

/// Largest packet either way: the hub's largest message with the longest topic.
const MAX_PACKET: usize = D2C_MAX_BYTES + 2 * 65_535;

/// Over TCP and TLS, with `rumqttc`.
pub(super) struct Network;

/// A client that is about to connect.
pub(super) struct Dialled {
    client: AsyncClient,
    event_loop: EventLoop,
    relay: Option<Relay>,
    down: Option<Down>,
    /// The answer to the subscriptions for the way down has not come. Later answers are to others.
    awaits_down: bool,
    subscribed: Option<Arc<Subscribed>>,
    /// The other side has answered CONNECT.
    is_answered: bool,
}

impl Dial for Network {
    type Wire = Dialled;

    async fn dial(&self, options: &Options, login: &Login) -> io::Result<Dialled> {
        dial(options, login)
    }
}

impl Wire for Dialled {
    type Sender = AsyncClient;

    fn sender(&self) -> AsyncClient {
        self.client.clone()
    }

    async fn event(&mut self, target: &Target) -> Result<Event, Broken> {
        match self.event_loop.poll().await {
            Ok(event) => Ok(self.took(event, target)),
            Err(error) => {
                let (reason, text) = self.explain(&error, target);
                Err(Broken { reason, text })
            }
        }
    }
}

impl Sender for AsyncClient {
    async fn publish(&self, topic: String, body: Bytes) -> Result<(), String> {
        self.publish_bytes(topic, QoS::AtLeastOnce, false, body).await.map_err(|error| error.to_string())
    }

    async fn disconnect(&self) {
        // It fails only where the event loop is gone, and then so is the line.
        let _ = AsyncClient::disconnect(self).await;
    }
}

fn dial(options: &Options, login: &Login) -> io::Result<Dialled> {
    let target = &options.target;
    let (host, port) = target.server();
    let mut mqtt = MqttOptions::new(&login.client_id, host, port);
    mqtt.set_keep_alive(options.keep_alive)
        .set_clean_session(target.clean_session())
        .set_inflight(options.window.most())
        // A PUBACK tells the hub that a command was carried out: what nothing here takes is not acknowledged.
        .set_manual_acks(true)
        .set_max_packet_size(MAX_PACKET, MAX_PACKET);
    if let Some(username) = &login.username {
        let password = login.password.as_ref().map_or("", |password| password.expose());
        mqtt.set_credentials(username, password);
    }
    let relay = match target.route(MAX_PACKET) {
        None => None,
        Some(route) => {
            let relay = Relay::start(route, options.relays.as_ref())?;
            mqtt.set_proxy(relay.proxy());
            Some(relay)
        }
    };
    // Around a WebSocket the relay speaks TLS.
    if let Some(tls) = target.tls().filter(|_| target.websocket().is_none()) {
        mqtt.set_transport(Transport::Tls(TlsConfiguration::Rustls(tls.clone())));
    }
    let (client, mut event_loop) = AsyncClient::new(mqtt, usize::from(options.window.most()));
    let mut network = NetworkOptions::new();
    network.set_connection_timeout(NETWORK_TIMEOUT.as_secs());
    network.set_tcp_nodelay(true);
    event_loop.set_network_options(network);
    let (down, subscribed) = (options.down.clone(), options.subscribed.clone());
    Ok(Dialled { client, event_loop, relay, down, awaits_down: false, subscribed, is_answered: false })
}

impl Dialled {
    /// What happened, and what follows of it for the way down.
    fn took(&mut self, event: rumqttc::Event, target: &Target) -> Event {
        use rumqttc::Event::{Incoming as In, Outgoing as Out};
        match event {
            // What has QoS 0 is an answer to the hub, and no message that goes up.
            Out(Outgoing::Publish(packet_id)) if packet_id > 0 => return Event::Sent(packet_id),
            Out(Outgoing::Disconnect) => return Event::Left,
            In(Incoming::PubAck(ack)) => return Event::Acknowledged(ack.pkid),
            In(Incoming::ConnAck(_)) => {
                self.is_answered = true;
                if let Some(down) = &self.down {
                    self.awaits_down = down.subscribe(&self.client, target);
                }
                if let Some(subscribed) = &self.subscribed {
                    let wanted = self.down.as_ref().map(|down| down.filters(target)).unwrap_or_default();
                    subscribed.connected(&self.client, target, &wanted);
                }
                return Event::Connected;
            }
            In(Incoming::SubAck(ack)) => {
                if let Some(down) = &self.down
                    && std::mem::take(&mut self.awaits_down)
                {
                    down.subscribed(&self.client, target, &ack);
                }
            }
            In(Incoming::UnsubAck(_)) => self.subscribed.iter().for_each(|subscribed| subscribed.unsubscribed()),
            In(Incoming::Publish(publish)) => {
                if let Some(down) = &self.down {
                    down.arrived(&self.client, target, publish);
                }
            }
            _ => {}
        }
        Event::Other
    }

    /// The counter's label and a sentence for an error of the event loop.
    fn explain(&self, error: &ConnectionError, target: &Target) -> (&'static str, String) {
        let (host, port) = target.server();
        let dialled = target.way().describe(host, port);
        if let Some(Failed { broken, may_be_the_port }) = self.relay.as_ref().and_then(Relay::failed) {
            let hint = if may_be_the_port { blocked_hint(target) } else { "" };
            return (broken.reason, format!("{}{hint}", broken.text));
        }
        let refused_first = matches!(error, ConnectionError::ConnectionRefused(_));
        if let Some(goodbye) = self.relay.as_ref().and_then(Relay::goodbye).filter(|_| !refused_first) {
            return ("closed", format!("{host} closed the WebSocket, {goodbye}"));
        }
        match error {
            ConnectionError::Io(error) | ConnectionError::Tls(TlsError::Io(error))
                if error.get_ref().is_some_and(|e| e.is::<rumqttc::tokio_rustls::rustls::Error>()) =>
            {
                ("tls", format!("no TLS connection to {host} ({dialled}): {error}{}", tls_hint(&error.to_string())))
            }
            ConnectionError::Io(error) | ConnectionError::Tls(TlsError::Io(error)) => {
                let hint = match target {
                    Target::Hub(hub) if hub.way.address.is_none() && looks_blocked(error) => blocked_hint(target),
                    _ => port_hint(error, target),
                };
                ("network", format!("cannot reach {dialled}: {}{hint}", in_words(error)))
            }
            ConnectionError::Tls(error) => ("tls", format!("no TLS connection to {host} ({dialled}): {error}")),
            ConnectionError::NetworkTimeout => {
                let (seconds, hint) = (NETWORK_TIMEOUT.as_secs(), blocked_hint(target));
                ("timeout", format!("{dialled} did not answer within {seconds} s{hint}"))
            }
            ConnectionError::FlushTimeout => {
                ("timeout", format!("{dialled} took nothing within {} s", NETWORK_TIMEOUT.as_secs()))
            }
            ConnectionError::ConnectionRefused(code) => {
                let code = return_code(*code);
                let why = match target {
                    Target::Hub(hub) if is_identity(code) && hub.certificate_by_websocket() => REFUSED_CERTIFICATE,
                    Target::Hub(_) => refused(code),
                    Target::Mqtt(_) => refused_by_broker(code),
                };
                ("refused", format!("{host} refused the connection (CONNACK {code}): {why}"))
            }
            ConnectionError::MqttState(
                StateError::Io(error) | StateError::Deserialization(mqttbytes::Error::Io(error)),
            ) if is_broken(error) => ("network", format!("the line to {dialled} broke: {error}")),
            ConnectionError::MqttState(
                StateError::Io(_)
                | StateError::ConnectionAborted
                | StateError::Deserialization(mqttbytes::Error::Io(_)),
            ) if self.is_answered || matches!(target, Target::Mqtt(_)) => {
                ("closed", format!("{host} closed the connection"))
            }
            ConnectionError::MqttState(
                StateError::Io(_)
                | StateError::ConnectionAborted
                | StateError::Deserialization(mqttbytes::Error::Io(_)),
            ) => ("closed", format!("{host} closed the connection before it answered{}", web_hint(target))),
            ConnectionError::MqttState(StateError::AwaitPingResp) => {
                ("timeout", format!("{host} does not answer pings"))
            }
            error => ("protocol", format!("the connection to {host} failed: {error}")),
        }
    }
}

/// Many plants let nothing out but web traffic.
fn blocked_hint(target: &Target) -> &'static str {
    match target {
        Target::Hub(hub) if hub.way.address.is_none() && hub.transport.is_fixed_to_mqtt() => {
            ". Where a firewall or proxy lets only port 443 out, set `transport = \"websocket\"` in [uplink]"
        }
        _ => "",
    }
}

/// A port for plain MQTT hangs up when it is greeted with TLS, which is the default; one for web traffic when it is greeted
/// with MQTT.
fn port_hint(error: &io::Error, target: &Target) -> &'static str {
    match target {
        Target::Mqtt(mqtt) if has_hung_up(error) && mqtt.tls.is_some() => {
            ". If that port speaks MQTT without TLS, set `tls = false` in [uplink]"
        }
        Target::Hub(_) if has_hung_up(error) => web_hint(target),
        _ => "",
    }
}

/// A port that was named may be another one than it was taken for.
fn web_hint(target: &Target) -> &'static str {
    match target {
        Target::Hub(hub) if hub.way.address.is_some() && !hub.transport.is_websocket() => {
            ". If that port is one for web traffic, set `transport = \"websocket\"` in [uplink]"
        }
        _ => "",
    }
}

/// The likely causes behind a CONNACK return code of a broker that is no hub.
fn refused_by_broker(code: u8) -> &'static str {
    match code {
        1 => "the broker does not speak MQTT 3.1.1",
        2 => {
            "the broker does not take this client id: does `address` lead back to this bridge? \
             If not, set another `client_id` in [uplink]"
        }
        3 => "the broker is not available: it is tried again",
        4 | 5 => {
            "the broker does not let this client in: look at `username` and `password` in [uplink], \
             and at who may connect in the broker's own settings"
        }
        code => refused(code),
    }
}

fn return_code(code: ConnectReturnCode) -> u8 {
    match code {
        ConnectReturnCode::Success => 0,
        ConnectReturnCode::RefusedProtocolVersion => 1,
        ConnectReturnCode::BadClientId => 2,
        ConnectReturnCode::ServiceUnavailable => 3,
        ConnectReturnCode::BadUserNamePassword => 4,
        ConnectReturnCode::NotAuthorized => 5,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use futures_util::FutureExt as _;
    use rumqttc::mqttbytes::v4::{ConnAck, SubAck};
    use rumqttc::tokio_rustls::rustls::crypto::ring;
    use rumqttc::tokio_rustls::rustls::{ClientConfig, RootCertStore};
    use rumqttc::{QoS, SubscribeReasonCode};
    use tokio::sync::watch;

    use super::super::{HubTarget, TwinNews, Wanted};
    use super::*;
    use crate::hub::connection_string::ConnectionString;
    use crate::message::Timestamp;
    use crate::metrics::Metrics;
    use crate::outbound::Way;

    pub(in crate::uplink) fn hub() -> Target {
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let builder = builder.with_safe_default_protocol_versions().unwrap();
        let text = "HostName=h.example;DeviceId=gw;SharedAccessKey=c2VjcmV0";
        Target::Hub(HubTarget {
            connection: ConnectionString::parse(text).unwrap(),
            tls: Arc::new(builder.with_root_certificates(RootCertStore::empty()).with_no_client_auth()),
            way: Way::default(),
            transport: super::super::Transport::MQTT,
            model_id: None,
            certificate_expiry: None,
            token_lifetime: Duration::from_secs(3_600),
            gateway: true,
        })
    }

    /// Twins are asked for when the hub has granted their subscriptions. That is what its first answer is about: later
    /// ones are about what is taken back.
    #[tokio::test]
    async fn twins_are_asked_for_once_the_first_answer_grants_them() {
        let good = SubscribeReasonCode::Success(QoS::AtLeastOnce);
        let (granted, refused) = (vec![good, good], vec![good, SubscribeReasonCode::Failure]);
        let twins = Wanted { twins: true, desired: true, ..Wanted::default() };
        let commands = Wanted { messages: true, methods: true, ..Wanted::default() };
        for (name, wanted, answers, expect) in [
            ("nothing is wanted", Wanted::default(), vec![&granted], 0),
            ("no answer yet", twins, vec![], 0),
            ("granted", twins, vec![&granted], 1),
            ("refused", twins, vec![&refused], 0),
            ("granted, and something is taken back", twins, vec![&granted, &granted, &refused], 1),
            ("refused, and something is taken back", twins, vec![&refused, &granted], 0),
            ("only commands are wanted", commands, vec![&granted], 0),
        ] {
            let (_wanted, receiver) = watch::channel(wanted);
            let (down, mut arrivals) = Down::new(receiver, Metrics::register());
            let target = hub();
            let options = Options { target: hub(), down: Some(down), ..super::super::tests::options(1, 4) };
            let mut dialled = dial(&options, &target.login(Timestamp(0))).unwrap();
            // The second connection is as the first.
            for connection in 1..=2 {
                let connected = ConnAck::new(ConnectReturnCode::Success, false);
                let event = rumqttc::Event::Incoming(Incoming::ConnAck(connected));
                assert!(matches!(dialled.took(event, &target), Event::Connected));
                let mut opened = 0;
                for codes in &answers {
                    let event = rumqttc::Event::Incoming(Incoming::SubAck(SubAck::new(1, (*codes).clone())));
                    assert!(matches!(dialled.took(event, &target), Event::Other));
                    while let Some(Some(news)) = arrivals.twins.next().now_or_never() {
                        assert!(matches!(news, TwinNews::Opened(device, _) if device == "gw"), "{name}");
                        opened += 1;
                    }
                }
                assert_eq!(opened, expect, "{name}, connection {connection}");
            }
        }
    }
}
