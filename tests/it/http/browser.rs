//! Tests of the page in a real browser. Need Debian's packages chromium and chromium-driver.

use super::client::{page_of, plain, with_page};
use super::proxy;
use super::webdriver::Browser;
use crate::support::{Cluster, unique_addr};

const MARKUP: &str = "<img/src=x/onerror=alert(1)>";
/// Script: whether the table has this many rows in this state. Arguments: state, number.
const ROWS: &str =
    "return document.querySelectorAll(`#rows tr[data-state=${arguments[0]}]`).length === +arguments[1]";

#[test]
fn page_shows_up_and_dead_peers() {
    let Some(browser) = Browser::start() else { return };
    let mut cluster = Cluster::new();
    // Alice joins through bob. A stranger counts as left once another process, that of another test, has its port.
    let nodes = cluster.start_star(plain("bob"), [with_page("alice"), plain(MARKUP)]);
    let [bob, alice, _] = nodes[..] else { panic!("{nodes:?}") };
    cluster.wait_full_mesh(&nodes);
    browser.open(&format!("http://{}/", page_of(&cluster, alice)));
    browser.wait_for("both peers", ROWS, &["up", "2"]);
    browser.wait_for("their drawing", "return document.querySelectorAll('#nodes .up').length === 2", &[]);
    browser.wait_for(
        "the summary",
        "const words = document.getElementById('summary').textContent; return words.includes('3 members') && !words.includes('dead')",
        &[],
    );
    // A name with markup is shown as text.
    let name =
        "return [...document.querySelectorAll('#rows th')].some((th) => th.textContent === arguments[0])";
    browser.wait_for("the odd name", name, &[MARKUP]);
    assert_eq!(browser.run("return document.querySelectorAll('img').length", &[]), 0);
    browser.wait_for(
        "the events so far",
        "return document.querySelectorAll('#events .up').length === 2 && document.querySelector('#events .listening')",
        &[],
    );

    let id_of_bob = cluster.id(bob).to_string();
    cluster.kill(bob);
    let row = "return document.querySelector(`#rows tr[data-id='${arguments[0]}']`).dataset.state === 'dead'";
    browser.wait_for("the death of bob", row, &[&id_of_bob]);
    browser.wait_for("its drawing", "return document.querySelectorAll('#nodes .dead').length === 1", &[]);
    browser.wait_for("the event", "return document.querySelector('#events .down')", &[]);
    let verdict = "return document.querySelector(`#rows tr[data-id='${arguments[0]}'] .verdict`).textContent.startsWith('node')";
    browser.wait_for("what the other member says of it", verdict, &[&id_of_bob]);
    browser.wait_for(
        "the summary",
        "const words = document.getElementById('summary').textContent; return words.includes('2 members') && words.includes('1 dead')",
        &[],
    );

    // A newcomer appears without a reload.
    cluster.start(plain("dave").with_connect(cluster.addr(alice)));
    browser.wait_for("a newcomer", ROWS, &["up", "2"]);
    assert_eq!(browser.run("return document.getElementById('banner').hidden", &[]), true);
    assert_eq!(browser.console(), Vec::<String>::new());
}

/// The page takes this state of the mesh as if its node had told it.
const SHOW: &str = "peers = JSON.parse(arguments[0]); status.peers = { up: 1, unstable: 1, dead: 2, left: 0, rumour: 0 }; \
                    clearTimeout(timer); show(); ";

#[test]
fn dead_node_cut_link_and_unstable_peer_look_different() {
    let Some(browser) = Browser::start() else { return };
    let mut cluster = Cluster::new();
    let nodes = cluster.start_star(with_page("alice"), [plain("bob")]);
    cluster.wait_full_mesh(&nodes);
    browser.open(&format!("http://{}/", page_of(&cluster, nodes[0])));
    browser.wait_for("the peer", ROWS, &["up", "1"]);
    let peer = |n: u8, state: &str, verdict: serde_json::Value| {
        serde_json::json!({
            "id": format!("{n:02x}").repeat(32), "name": format!("n{n}"), "addr": "192.0.2.1:1", "addrs": [],
            "state": state, "since_s": 1.0, "rtt_ms": null, "rtt_min_ms": null, "rtt_mean_ms": null,
            "pings_received": 0, "pings_sent": 0, "reconnects": 0, "silence_s": null, "reached_by": [],
            "verdict": verdict,
        })
    };
    let said = |verdict: &str, seen_by: u8| serde_json::json!({ "verdict": verdict, "asked": 7, "seen_by": seen_by, "heard_ms": 5.0 });
    let peers = serde_json::json!([
        peer(1, "up", serde_json::Value::Null),
        peer(2, "dead", said("node", 0)),
        peer(3, "dead", said("link", 7)),
        peer(4, "unstable", serde_json::Value::Null),
    ]);
    let look = "const words = [...document.querySelectorAll('#rows .state')].map((cell) => cell.lastChild.textContent); \
                const drawn = ['up', 'dead', 'cut', 'unstable'].map((look) => document.querySelectorAll(`#nodes .${look}`).length); \
                const gaps = [...document.querySelectorAll('#links .gap')].filter((gap) => gap.getAttribute('d')).length; \
                return [words.join(), drawn.join(), gaps, document.getElementById('summary').textContent].join(' | ')";
    let seen = browser.run(&format!("{SHOW}{look}"), &[&peers.to_string()]);
    let wanted = "up,dead,link cut,unstable | 1,1,1,1 | 1 | 2 members, 1 dead, 1 link cut, 1 unstable";
    assert_eq!(seen, wanted);
    assert_eq!(browser.console(), Vec::<String>::new());
}

#[test]
fn page_works_below_a_path_of_a_reverse_proxy() {
    let Some(browser) = Browser::start() else { return };
    let mut cluster = Cluster::new();
    let nodes = cluster.start_star(with_page("alice"), [plain("bob")]);
    cluster.wait_full_mesh(&nodes);
    let proxy = proxy::start(page_of(&cluster, nodes[0]));
    browser.open(&format!("http://{proxy}{}", proxy::PATH));
    browser.wait_for("the peer", ROWS, &["up", "1"]);
    browser.wait_for("the events so far", "return document.querySelector('#events .up') !== null", &[]);
    let style = "return getComputedStyle(document.getElementById('mesh')).display === arguments[0]";
    assert_eq!(browser.run(style, &["block"]), true);
    // Every link of the page leads to an answer.
    let links = "return Promise.all([...document.querySelectorAll('footer a')].map((a) => fetch(a.href))) \
                 .then((answers) => answers.map((answer) => answer.status).join())";
    assert_eq!(browser.run(links, &[]), "200,200,200,200,200");
    cluster.start(plain("dave").with_connect(cluster.addr(nodes[0])));
    let event = "return [...document.querySelectorAll('#events .up + .what')].some((e) => e.textContent.startsWith('dave'))";
    browser.wait_for("an event", event, &[]);
    assert_eq!(browser.console(), Vec::<String>::new());
}

#[test]
fn page_shows_a_lost_node_and_reconnects() {
    let Some(browser) = Browser::start() else { return };
    let mut cluster = Cluster::new();
    let page = unique_addr();
    let spec = |name: &str| plain(name).with_args(&format!("--http {page}"));
    let first = cluster.start(spec("first"));
    browser.open(&format!("http://{page}/"));
    let heading = "return document.getElementById('name').textContent === arguments[0]";
    browser.wait_for("the node", heading, &["first"]);
    assert_eq!(browser.console(), Vec::<String>::new());

    cluster.kill(first);
    browser.wait_for("the banner", "return !document.getElementById('banner').hidden", &[]);
    let banner = browser.run("return document.getElementById('banner').textContent", &[]);
    assert!(banner.as_str().unwrap().contains(&page.to_string()), "{banner}");

    let second = cluster.start(spec("second"));
    browser.wait_for("the new node", heading, &["second"]);
    browser.wait_for("the end of the banner", "return document.getElementById('banner').hidden", &[]);
    // The stream of events works again too.
    cluster.start(plain("newcomer").with_connect(cluster.addr(second)));
    let shown = "return [...document.querySelectorAll('#events .up + .what')].some((e) => e.textContent.startsWith('newcomer'))";
    browser.wait_for("an event", shown, &[]);
    let unexpected =
        |message: &String| !message.contains("net::ERR_") && !message.contains("Failed to load resource");
    assert_eq!(browser.console().into_iter().filter(unexpected).collect::<Vec<_>>(), Vec::<String>::new());
}

#[test]
fn page_works_with_keyboard_and_screen_reader() {
    let Some(browser) = Browser::start() else { return };
    let mut cluster = Cluster::new();
    let nodes = cluster.start_star(with_page("alice"), [plain("bob"), plain("carol")]);
    cluster.wait_full_mesh(&nodes);
    browser.open(&format!("http://{}/", page_of(&cluster, nodes[0])));
    browser.wait_for("both peers", ROWS, &["up", "2"]);
    // Every control can be focused in the order of the page, and has a name.
    let stops = browser.run(
        "return [...document.querySelectorAll('a, button, input, [tabindex=\"0\"]')].map((e) => \
         e.tabIndex < 0 ? '' : (e.textContent.trim() || e.labels?.[0]?.textContent.trim() || e.getAttribute('aria-labelledby') || ''))",
        &[],
    );
    let stops = stops.as_array().unwrap();
    assert!(!stops.is_empty() && stops.iter().all(|name| name != ""), "{stops:?}");
    // The table is a real table and announces its sort order.
    let sort = "const button = [...document.querySelectorAll('#head button')].find((b) => b.textContent === arguments[0]); \
                button.focus(); button.click(); return button.parentElement.getAttribute('aria-sort')";
    assert_eq!(browser.run(sort, &["Name"]), "descending");
    let names = "return [...document.querySelectorAll('#rows th')].map((th) => th.textContent).join()";
    assert_eq!(browser.run(names, &[]), "carol,bob");
    assert_eq!(browser.run(sort, &["State"]), "ascending");
    let headers = "return [...document.querySelectorAll('#head th')].every((th) => th.scope === 'col') && \
                   [...document.querySelectorAll('#rows th')].every((th) => th.scope === 'row')";
    assert_eq!(browser.run(headers, &[]), true);
    // The drawing has a text; screen readers speak changes of the summary and the loss of the node.
    let words = browser.run("return document.getElementById('mesh-text').textContent", &[]);
    let words = words.as_str().unwrap();
    assert!(words.contains("alice") && words.contains("3 members"), "{words}");
    let live = "return document.getElementById('summary').getAttribute('aria-live') === 'polite' && \
                document.getElementById('banner').getAttribute('role') === 'alert'";
    assert_eq!(browser.run(live, &[]), true);
    // The filter shows only matching rows.
    let find = "const field = document.getElementById('filter'); field.value = arguments[0]; \
                field.dispatchEvent(new Event('input')); return document.querySelectorAll('#rows tr').length";
    assert_eq!(browser.run(find, &["bo"]), 1);
    assert_eq!(browser.run(find, &["no such name"]), 0);
    assert_eq!(browser.console(), Vec::<String>::new());
}
