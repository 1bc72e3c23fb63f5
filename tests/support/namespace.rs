//! A network of two: this machine, and a network namespace behind a veth pair.
#![allow(unreachable_pub, clippy::unwrap_used, reason = "test code")]

use std::net::Ipv4Addr;
use std::process::{Command, Output};

/// Goes with its value, also in a panic. What runs inside is to end before.
pub struct Namespace {
    name: String,
    near: String,
    far: String,
    /// The address inside.
    pub address: Ipv4Addr,
}

fn ip(args: &[&str]) -> std::io::Result<Output> {
    let path = std::env::var("PATH").unwrap_or_default();
    Command::new("ip").env("PATH", format!("{path}:/usr/sbin:/sbin")).args(args).output()
}

/// True where it worked.
fn done(args: &[&str]) -> bool {
    ip(args).is_ok_and(|output| output.status.success())
}

impl Namespace {
    /// `None` without `ip`, or without the right to make one.
    pub fn make() -> Option<Self> {
        let random: u32 = rand::random();
        let [.., b, c, d] = random.to_be_bytes();
        // The last two bits are the two ends'.
        let [near, far] = [1, 2].map(|end| Ipv4Addr::new(10, b, c, (d & !3) | end));
        let name = format!("bb{random:08x}");
        let made = Self { near: format!("{name}n"), far: format!("{name}f"), name, address: far };
        if !done(&["netns", "add", &made.name]) {
            return None;
        }
        let net = |address: Ipv4Addr| format!("{address}/30");
        let (near, far) = (net(near), net(far));
        let up = done(&["link", "add", &made.near, "type", "veth", "peer", "name", &made.far, "netns", &made.name])
            && done(&["address", "add", &near, "dev", &made.near])
            && done(&["link", "set", &made.near, "up"])
            && done(&["-n", &made.name, "address", "add", &far, "dev", &made.far])
            && done(&["-n", &made.name, "link", "set", "lo", "up"]);
        made.link(true);
        up.then_some(made)
    }

    /// Takes the far end up or down: this side keeps its route, so nothing looks for another way.
    pub fn link(&self, up: bool) {
        assert!(done(&["-n", &self.name, "link", "set", &self.far, if up { "up" } else { "down" }]));
    }

    /// Runs a program inside; it is the process itself, so that a signal reaches it.
    pub fn command(&self, program: &str) -> Command {
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = Command::new("ip");
        command.env("PATH", format!("{path}:/usr/sbin:/sbin")).args(["netns", "exec", &self.name, program]);
        command
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        done(&["link", "delete", &self.near]);
        done(&["netns", "delete", &self.name]);
    }
}
