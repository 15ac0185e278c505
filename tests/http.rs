//! `--http` of the real program: what it answers, how little a bad client matters, what a browser and
//! a real Prometheus make of it.
#![allow(clippy::unwrap_used, missing_docs)]
#![cfg(all(unix, feature = "http"))]

mod support;

mod http {
    mod client;
    mod webdriver;

    mod answers;
    mod bounds;
    mod browser;
    mod scrape;
    mod stream;
}
