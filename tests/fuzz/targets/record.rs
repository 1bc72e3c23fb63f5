//! Any bytes as a record: reading ends and, where it is a record, writing it again gives the same bytes; the topic
//! that goes up for it reads back as its properties.
#![no_main]

use brownbridge::hub::connect::Identity;
use brownbridge::hub::{bag, d2c};
use brownbridge::message::{Content, HubMessage, RecordWriter};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(message) = HubMessage::parse(bytes) else { return };
    let mut again = Vec::new();
    let device = |out: &mut Vec<u8>| out.extend_from_slice(message.device.as_bytes());
    let mut writer = RecordWriter::begin(&mut again, message.created, message.content, device);
    for (name, value) in message.properties() {
        writer.property(name, |out| out.extend_from_slice(value.as_bytes()));
    }
    writer.finish(|out| out.extend_from_slice(message.body)).expect("every text fitted before");
    assert_eq!(again, bytes);

    let sender = d2c::Sender { identity: Identity { hub: "h", device: "bridge", module: Some("m") }, gateway: true, replayed: false };
    let mut topic = String::new();
    d2c::push_topic(&mut topic, &sender, &message, "1-2");
    let _ = d2c::check_size(&sender, &message, "1-2", &topic);
    let written = topic.strip_prefix("devices/bridge/modules/m/messages/events/").expect("the prefix");
    if message.content != Content::BagAsGiven && message.properties().all(|(name, _)| !name.is_empty()) {
        let read = bag::decode(written).expect("the hub takes what the bridge writes");
        for (name, _) in message.properties() {
            assert!(read.iter().any(|(known, _)| known == name), "{name} is not in {written}");
        }
    }
});
