//! Every way to close a session, with calls under way or none, at a peer that answers or is silent, and whoever else
//! wishes to close meanwhile.

use std::{pin::pin, sync::Arc, time::Duration};

use futures_util::{SinkExt, StreamExt};
use ocpp_rpc::{
    Close, Error, Options, Session,
    close::{CloseCause, CloseInfo},
};
use serde_json::Value;
use tokio::{
    sync::Semaphore,
    time::{Instant, sleep},
};
use tokio_tungstenite::tungstenite::Message;

use crate::support::{SECOND, Station, connected, gated, server_with};

#[derive(Debug, Clone, Copy, PartialEq)]
enum Manner {
    AtOnce,
    /// Calls under way have ten seconds.
    Waiting,
    Forced,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Peer {
    /// It answers our close at once, and our call after three seconds.
    Answers,
    Silent,
}

/// Whose calls are under way.
#[derive(Debug, Clone, Copy)]
struct UnderWay {
    ours: bool,
    theirs: bool,
}

const THINKS: Duration = Duration::from_secs(3);

#[tokio::test(start_paused = true)]
async fn b49_every_close_ends_in_time_and_both_sides_know_how() {
    let mut cases = 0;
    for mode in [Manner::AtOnce, Manner::Waiting, Manner::Forced] {
        for (ours, theirs) in [(false, false), (true, false), (false, true), (true, true)] {
            for peer in [Peer::Answers, Peer::Silent] {
                for second in [false, true] {
                    check(mode, UnderWay { ours, theirs }, peer, second).await;
                    cases += 1;
                }
            }
        }
    }
    assert_eq!(cases, 48);
}

async fn check(mode: Manner, under_way: UnderWay, peer: Peer, second: bool) {
    let case = format!("{mode:?}, {under_way:?}, {peer:?}, second: {second}");
    let (router, gate) = gated();
    // A ping that comes first would be answered into the void, and hide the close frame.
    let server = server_with(router, Options::server().ping_interval(None));
    let (mut station, session) = connected(&server, "ocpp1.6").await;
    if under_way.theirs {
        station.send(r#"[2,"1","Wait",{}]"#).await;
        assert_eq!(station.ask(r#"[2,"2","Echo",{}]"#).await, r#"[3,"2",{}]"#);
    }
    let mut call = None;
    let mut id = None;
    if under_way.ours {
        call = Some(tokio::spawn(session.call::<Value>("Reset", &())));
        id = Some(station.receive_call().await.0);
    }

    let close = match mode {
        Manner::AtOnce => Close::new(3000).reason("so long"),
        Manner::Waiting => Close::new(3000).reason("so long").drain(10 * SECOND),
        Manner::Forced => Close::forced().reason("so long"),
    };
    let closing = tokio::spawn(timed(session.clone(), close));
    tokio::task::yield_now().await;
    let other = second.then(|| tokio::spawn(timed(session.clone(), Close::new(4001).reason("other"))));
    let ((closed, elapsed), seen) = match peer {
        Peer::Answers => {
            let seen = listen(station, id, gate).await;
            (closing.await.expect("no panic"), seen)
        }
        Peer::Silent => {
            let closed = closing.await.expect("no panic");
            // It reads only now, when nothing more comes.
            (closed, listen(station, None, gate).await)
        }
    };

    let busy = under_way.ours || under_way.theirs;
    let expected = match (mode, peer) {
        (Manner::Forced, _) | (Manner::AtOnce, Peer::Answers) => 0..=0,
        (Manner::Waiting, Peer::Answers) if busy => 3..=3,
        (Manner::Waiting, Peer::Answers) => 0..=0,
        // The close handshake has five seconds, and what else comes in one.
        (Manner::AtOnce, Peer::Silent) => 5..=6,
        (Manner::Waiting, Peer::Silent) if busy => 15..=16,
        (Manner::Waiting, Peer::Silent) => 5..=6,
    };
    assert!(expected.contains(&elapsed.as_secs()), "{case}: {elapsed:?}");

    let (code, told) = if mode == Manner::Forced { (1006, "") } else { (3000, "so long") };
    assert_eq!((closed.code, &*closed.reason, closed.cause), (code, "so long", CloseCause::Local), "{case}");
    assert_eq!(seen.end, (code, told.to_owned()), "{case}: what the station sees");
    if let Some(other) = other {
        assert_eq!(other.await.expect("no panic").0, closed, "{case}: the first close decides");
    }
    assert_eq!(session.closed().await, closed, "{case}");
    assert!(server.session("CP-1").is_none(), "{case}: it has left the registry");

    let settles = mode == Manner::Waiting && peer == Peer::Answers;
    if let Some(call) = call {
        match call.await.expect("no panic") {
            Ok(_) => assert!(settles, "{case}"),
            Err(error) => {
                assert!(
                    !settles && matches!(error, Error::Disconnected { maybe_delivered: true }),
                    "{case}: {error:?}"
                );
            }
        }
    }
    let answered: &[&str] = if settles && under_way.theirs { &[r#"[3,"1",{}]"#] } else { &[] };
    assert_eq!(seen.texts, answered, "{case}");
}

/// Closes, and says how long it took.
async fn timed(session: Session, close: Close) -> (CloseInfo, Duration) {
    let start = Instant::now();
    (session.close(close).await, start.elapsed())
}

/// What a station sees of an end.
struct Seen {
    texts: Vec<String>,
    end: (u16, String),
}

/// A station that listens to the end. It thinks for a while before it answers, and before it lets the handler of its
/// own call go.
async fn listen(mut station: Station, id: Option<String>, gate: Arc<Semaphore>) -> Seen {
    let mut texts = Vec::new();
    let mut thinks = pin!(sleep(THINKS));
    let mut thought = false;
    loop {
        let message = tokio::select! {
            message = station.ws.next() => message,
            () = &mut thinks, if !thought => {
                thought = true;
                gate.add_permits(1);
                if let Some(id) = &id {
                    station.send(format!(r#"[3,"{id}",{{}}]"#)).await;
                }
                continue;
            }
        };
        match message {
            Some(Ok(Message::Text(text))) => texts.push(text.to_string()),
            Some(Ok(Message::Close(Some(frame)))) => {
                let _ = station.ws.flush().await;
                return Seen { texts, end: (frame.code.into(), frame.reason.to_string()) };
            }
            Some(Ok(_)) => {}
            Some(Err(_)) | None => return Seen { texts, end: (1006, String::new()) },
        }
    }
}
