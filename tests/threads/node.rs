//! A node's handle, used while the node stops.

use crate::Check;
use crate::event::Event;
use crate::node_handle::NodeHandle;
use crate::runtime::command::Command;
use crate::runtime::subscribers::Subscribers;
use crate::util::sync::{Receiver, thread, unbounded};

pub(crate) const CHECKS: &[Check] = &[
    ("answer_does_not_wait_for_a_node_that_has_stopped", answer),
    ("subscription_ends_with_the_node", subscription),
];

/// The coordinator's thread, without sessions and a mesh.
fn coordinate(commands: &Receiver<Command>) {
    let mut subscribers = Subscribers::default();
    loop {
        match commands.recv() {
            Ok(Command::Leave) | Err(_) => break,
            Ok(Command::Subscribe(subscriber)) => subscribers.add(subscriber),
            Ok(Command::WhenSettled(reply)) => drop(reply.try_send(())),
            Ok(_) => {}
        }
    }
    subscribers.publish(&Event::Stopped, false);
}

/// A thread uses the handle while another one stops the node.
fn while_stopping(user: impl FnOnce(&NodeHandle) + 'static) {
    let (control, commands) = unbounded();
    let handle = NodeHandle::new(control);
    let theirs = handle.clone();
    let coordinator = thread::spawn(move || coordinate(&commands));
    let user = thread::spawn(move || user(&theirs));
    handle.leave();
    coordinator.join().unwrap();
    user.join().unwrap();
}

fn answer() {
    while_stopping(|handle| {
        let _ = handle.wait_settled();
    });
}

fn subscription() {
    while_stopping(|handle| {
        let seen: Vec<Event> = handle.subscribe().iter().collect();
        assert!(seen.is_empty() || seen == [Event::Stopped], "{seen:?}");
    });
}
