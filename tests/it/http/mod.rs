//! `--http` of the real program: what it answers, how little a bad client matters, what a browser and
//! a real Prometheus make of it.
#![cfg(feature = "http")]

mod client;
mod webdriver;

mod answers;
mod bounds;
mod browser;
mod scrape;
mod stream;
