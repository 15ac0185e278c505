//! Tests of `--http` with the real program: its answers, bad clients, a real browser and a real
//! Prometheus.

pub(crate) mod client;
mod proxy;
mod webdriver;

mod answers;
mod bounds;
mod browser;
mod scrape;
mod stream;
