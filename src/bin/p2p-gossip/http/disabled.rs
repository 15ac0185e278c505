//! Replaces the HTTP server in a build without the feature `http`. The command line refuses `--http` there, so
//! these types have no values.

use std::io;
use std::net::SocketAddr;
use std::time::Instant;

use jiff::Timestamp;
use p2p_gossip::{Config, Event, Node};

#[derive(Debug)]
pub(crate) enum Socket {}

#[derive(Debug)]
pub(crate) enum Server {}

impl Socket {
    pub(crate) fn open(_: SocketAddr) -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(crate) fn url(&self) -> String {
        match *self {}
    }

    pub(crate) fn serve(self, _: &Node, _: &Config) -> io::Result<Server> {
        match self {}
    }
}

impl Server {
    pub(crate) fn tell(&self, _: Timestamp, _: &Event) {
        match *self {}
    }

    pub(crate) fn finish(self, _: Instant) {
        match self {}
    }
}
