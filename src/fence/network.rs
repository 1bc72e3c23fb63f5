//! Addresses and networks in CIDR notation.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A network: an address and how many of its leading bits count. One address is a network of all its bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Network {
    address: IpAddr,
    bits: u8,
}

/// Why a text is no network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NetworkError {
    /// Neither an address nor an address, `/` and a number.
    Syntax,
    /// More bits than the address has.
    Bits {
        /// How many it has.
        most: u8,
    },
    /// Bits are set behind those that count; the network that was probably meant.
    HostBits(Network),
}

impl fmt::Display for NetworkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Syntax => f.write_str("this is no address and no network"),
            Self::Bits { most } => write!(f, "an address of this kind has {most} bits"),
            Self::HostBits(meant) => write!(f, "the network of this address is {meant}"),
        }
    }
}

impl std::error::Error for NetworkError {}

impl Network {
    /// The network of one address. An IPv4 address written as IPv6 is taken for what it is.
    pub fn of(address: IpAddr) -> Self {
        let address = address.to_canonical();
        Self { address, bits: width(&address) }
    }

    /// Reads `10.1.2.3`, `10.0.0.0/8`, `fd00::/8`.
    pub fn parse(text: &str) -> Result<Self, NetworkError> {
        let Some((address, bits)) = text.split_once('/') else {
            return text.parse().map(Self::of).map_err(|_| NetworkError::Syntax);
        };
        let address: IpAddr = address.parse().map_err(|_| NetworkError::Syntax)?;
        let plain = !bits.is_empty() && bits.len() <= 3 && bits.bytes().all(|b| b.is_ascii_digit());
        let bits = bits.parse::<u16>().ok().filter(|_| plain).ok_or(NetworkError::Syntax)?;
        let most = width(&address);
        let bits = u8::try_from(bits).ok().filter(|bits| *bits <= most).ok_or(NetworkError::Bits { most })?;
        let network = Self { address: cut(address, bits), bits };
        if network.address == address { Ok(network) } else { Err(NetworkError::HostBits(network)) }
    }

    /// True where the address belongs to the network.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_ipv4() == self.address.is_ipv4() && cut(address, self.bits) == self.address
    }

    /// The smallest network that holds both; none for an IPv4 and an IPv6 one.
    pub fn join(self, other: Self) -> Option<Self> {
        if self.address.is_ipv4() != other.address.is_ipv4() {
            return None;
        }
        let mut bits = self.bits.min(other.bits);
        while cut(self.address, bits) != cut(other.address, bits) {
            bits = bits.checked_sub(1)?;
        }
        Some(Self { address: cut(self.address, bits), bits })
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.bits == width(&self.address) {
            write!(f, "{}", self.address)
        } else {
            write!(f, "{}/{}", self.address, self.bits)
        }
    }
}

fn width(address: &IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// The address with everything behind its first `bits` bits cleared.
fn cut(address: IpAddr, bits: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32_u32.saturating_sub(bits.into())).unwrap_or(0);
            IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() & mask))
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128_u32.saturating_sub(bits.into())).unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & mask))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn parsing() {
        let meant = |text: &str| NetworkError::HostBits(Network::parse(text).unwrap());
        for (text, expect) in [
            ("10.1.2.3", Ok("10.1.2.3")),
            ("10.1.2.3/32", Ok("10.1.2.3")),
            ("10.0.0.0/8", Ok("10.0.0.0/8")),
            ("0.0.0.0/0", Ok("0.0.0.0/0")),
            ("fd00::/8", Ok("fd00::/8")),
            ("::1", Ok("::1")),
            ("::ffff:10.1.2.3", Ok("10.1.2.3")),
            ("10.1.2.3/8", Err(meant("10.0.0.0/8"))),
            ("fd00::1/64", Err(meant("fd00::/64"))),
            ("10.0.0.0/33", Err(NetworkError::Bits { most: 32 })),
            ("::/999", Err(NetworkError::Bits { most: 128 })),
            ("10.0.0.0/", Err(NetworkError::Syntax)),
            ("10.0.0.0/+8", Err(NetworkError::Syntax)),
            ("10.0.0/8", Err(NetworkError::Syntax)),
            ("plc-7", Err(NetworkError::Syntax)),
            ("", Err(NetworkError::Syntax)),
        ] {
            let got = Network::parse(text).map(|network| network.to_string());
            assert_eq!(got, expect.map(str::to_owned), "{text:?}");
        }
    }

    #[test]
    fn membership_and_joining() {
        for (network, address, expect) in [
            ("10.0.0.0/8", "10.255.0.1", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("10.0.0.0/8", "::ffff:10.0.0.1", true),
            ("0.0.0.0/0", "::1", false),
            ("::/0", "10.0.0.1", false),
            ("::/0", "fe80::1", true),
        ] {
            assert_eq!(
                Network::parse(network).unwrap().contains(address.parse().unwrap()),
                expect,
                "{network} {address}"
            );
        }
        for (a, b, expect) in [
            ("10.1.2.3", "10.1.2.3", Some("10.1.2.3")),
            ("10.1.2.4", "10.1.2.7", Some("10.1.2.4/30")),
            ("10.1.0.0/16", "10.1.2.3", Some("10.1.0.0/16")),
            ("1.0.0.0", "200.0.0.0", Some("0.0.0.0/0")),
            ("::1", "10.0.0.1", None),
        ] {
            let joined = Network::parse(a).unwrap().join(Network::parse(b).unwrap()).map(|network| network.to_string());
            assert_eq!(joined.as_deref(), expect, "{a} {b}");
        }
    }

    proptest! {
        #[test]
        fn text_and_network_are_the_same(raw in any::<u128>(), bits in 0_u8..=128, v4 in any::<bool>()) {
            let address = if v4 { IpAddr::from((raw as u32).to_be_bytes()) } else { IpAddr::from(raw.to_be_bytes()) };
            prop_assume!(address == address.to_canonical());
            let bits = if v4 { bits % 33 } else { bits };
            let network = Network { address: cut(address, bits), bits };
            prop_assert_eq!(Network::parse(&network.to_string()), Ok(network));
            prop_assert!(network.contains(address));
            // A bit that counts, flipped, leads out of the network.
            if bits > 0 {
                let out = match address {
                    IpAddr::V4(a) => IpAddr::V4(Ipv4Addr::from_bits(a.to_bits() ^ (1 << (32 - bits)))),
                    IpAddr::V6(a) => IpAddr::V6(Ipv6Addr::from_bits(a.to_bits() ^ (1 << (128 - u32::from(bits))))),
                };
                prop_assert!(!network.contains(out) || out != out.to_canonical());
            }
        }

        #[test]
        fn any_text_is_judged(text in "[0-9a-f:./ ]{0,24}|\\PC{0,12}") {
            let _ = Network::parse(&text);
        }
    }
}
