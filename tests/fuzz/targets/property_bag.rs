//! Any text as a property bag and as a topic: `check`, `pairs`, `decode` and `lost` agree, what `push` writes is read
//! back as it was, and what a local client addresses to the hub by itself can be judged whatever it says.
#![no_main]

use brownbridge::hub::connect::Identity;
use brownbridge::hub::{bag, d2c};
use brownbridge::message::{Content, HubMessage, RecordWriter, Timestamp};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    assert_eq!(bag::check(text).is_ok(), bag::pairs(text).all(|pair| pair.is_ok()));
    let decoded = bag::decode(text);
    assert_eq!(decoded.as_ref().err().copied(), bag::check(text).err());
    let head = text.split_once('/').map_or(text, |(head, _)| head);
    assert_eq!(bag::decode(head).is_ok(), decoded.is_ok() && !head.ends_with('&'));
    assert!(bag::lost(text).is_none_or(|lost| text.ends_with(lost)));
    assert!(d2c::bag_size(text) <= text.len());

    if let Ok(properties) = &decoded {
        let mut written = String::new();
        for (name, value) in properties {
            bag::push(&mut written, 0, name, value.as_deref().unwrap_or(""));
        }
        assert_eq!(bag::decode(&written).as_ref(), Ok(properties), "{written}");
    }
    let mut encoded = String::new();
    bag::encode(&mut encoded, text);
    assert_eq!(bag::unescape(&encoded), text);

    let given = d2c::addressed(text, "d").unwrap_or(text);
    let mut record = Vec::new();
    let mut writer = RecordWriter::begin(&mut record, Timestamp(0), Content::BagAsGiven, |_| ());
    writer.property("", |value| value.extend_from_slice(given.as_bytes()));
    if writer.finish(|_| ()).is_ok() {
        let message = HubMessage::parse(&record).expect("just written");
        let sender = d2c::Sender { identity: Identity { hub: "h", device: "d", module: None }, gateway: true, replayed: false };
        let mut topic = String::new();
        d2c::push_topic(&mut topic, &sender, &message, "");
        let _ = d2c::check_size(&sender, &message, "", &topic);
        assert_eq!(d2c::addressed(&topic, "d"), Some(given.strip_suffix('/').unwrap_or(given)));
    }
});
