//! Every combination of close mode, pending calls, responsive or silent peer, and a second concurrent close.

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
enum CloseMode {
    Immediate,
    /// Pending calls have ten seconds to complete.
    Draining,
    Forced,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Peer {
    /// It replies to the close at once, and to the call after [`RESPONSE_DELAY`].
    Responds,
    Silent,
}

/// The directions in which a call is pending.
#[derive(Debug, Clone, Copy)]
struct PendingCalls {
    outgoing: bool,
    incoming: bool,
}

const RESPONSE_DELAY: Duration = Duration::from_secs(3);

#[tokio::test(start_paused = true)]
async fn b49_every_close_ends_in_time_with_same_code_at_both_ends() {
    let mut cases = 0;
    for mode in [CloseMode::Immediate, CloseMode::Draining, CloseMode::Forced] {
        for (outgoing, incoming) in [(false, false), (true, false), (false, true), (true, true)] {
            for peer in [Peer::Responds, Peer::Silent] {
                for second in [false, true] {
                    check(mode, PendingCalls { outgoing, incoming }, peer, second).await;
                    cases += 1;
                }
            }
        }
    }
    assert_eq!(cases, 48);
}

async fn check(mode: CloseMode, pending: PendingCalls, peer: Peer, second: bool) {
    let case = format!("{mode:?}, {pending:?}, {peer:?}, second: {second}");
    let (router, gate) = gated();
    // A silent station replies to a ping only after the server has gone. The failed write would hide the close frame.
    let server = server_with(router, Options::server().ping_interval(None));
    let (mut station, session) = connected(&server, "ocpp1.6").await;
    if pending.incoming {
        station.send(r#"[2,"1","Wait",{}]"#).await;
        assert_eq!(station.ask(r#"[2,"2","Echo",{}]"#).await, r#"[3,"2",{}]"#);
    }
    let mut call = None;
    let mut id = None;
    if pending.outgoing {
        call = Some(tokio::spawn(session.call::<Value>("Reset", &())));
        id = Some(station.receive_call().await.0);
    }

    let close = match mode {
        CloseMode::Immediate => Close::new(3000).reason("so long"),
        CloseMode::Draining => Close::new(3000).reason("so long").drain(10 * SECOND),
        CloseMode::Forced => Close::forced().reason("so long"),
    };
    let closing = tokio::spawn(timed(session.clone(), close));
    tokio::task::yield_now().await;
    let other = second.then(|| tokio::spawn(timed(session.clone(), Close::new(4001).reason("other"))));
    let ((closed, elapsed), seen) = match peer {
        Peer::Responds => {
            let seen = read_to_end(station, id, gate).await;
            (closing.await.expect("no panic"), seen)
        }
        Peer::Silent => {
            let closed = closing.await.expect("no panic");
            // The station reads only now, after the server has ended.
            (closed, read_to_end(station, None, gate).await)
        }
    };

    let busy = pending.outgoing || pending.incoming;
    let expected = match (mode, peer) {
        (CloseMode::Forced, _) | (CloseMode::Immediate, Peer::Responds) => 0..=0,
        (CloseMode::Draining, Peer::Responds) if busy => 3..=3,
        (CloseMode::Draining, Peer::Responds) => 0..=0,
        // The close handshake has five seconds. The rest of the close may take one more.
        (CloseMode::Immediate, Peer::Silent) => 5..=6,
        (CloseMode::Draining, Peer::Silent) if busy => 15..=16,
        (CloseMode::Draining, Peer::Silent) => 5..=6,
    };
    assert!(expected.contains(&elapsed.as_secs()), "{case}: {elapsed:?}");

    let (code, reason) = if mode == CloseMode::Forced { (1006, "") } else { (3000, "so long") };
    assert_eq!((closed.code, &*closed.reason, closed.cause), (code, "so long", CloseCause::Local), "{case}");
    assert_eq!(seen.end, (code, reason.to_owned()), "{case}: at the station");
    if let Some(other) = other {
        assert_eq!(other.await.expect("no panic").0, closed, "{case}: the first close decides");
    }
    assert_eq!(session.closed().await, closed, "{case}");
    assert!(server.session("CP-1").is_none(), "{case}: the session is no longer registered");

    let completes = mode == CloseMode::Draining && peer == Peer::Responds;
    if let Some(call) = call {
        match call.await.expect("no panic") {
            Ok(_) => assert!(completes, "{case}"),
            Err(error) => {
                assert!(
                    !completes && matches!(error, Error::Disconnected { maybe_delivered: true }),
                    "{case}: {error:?}"
                );
            }
        }
    }
    let expected: &[&str] = if completes && pending.incoming { &[r#"[3,"1",{}]"#] } else { &[] };
    assert_eq!(seen.texts, expected, "{case}");
}

/// Closes the session and returns the elapsed time as well.
async fn timed(session: Session, close: Close) -> (CloseInfo, Duration) {
    let start = Instant::now();
    (session.close(close).await, start.elapsed())
}

/// The messages and the close that a station receives.
struct Seen {
    texts: Vec<String>,
    end: (u16, String),
}

/// Reads until the connection ends. After [`RESPONSE_DELAY`] the station responds to the call of this id, and lets the
/// handler of its own call finish.
async fn read_to_end(mut station: Station, id: Option<String>, gate: Arc<Semaphore>) -> Seen {
    let mut texts = Vec::new();
    let mut delay = pin!(sleep(RESPONSE_DELAY));
    let mut has_responded = false;
    loop {
        let message = tokio::select! {
            message = station.ws.next() => message,
            () = &mut delay, if !has_responded => {
                has_responded = true;
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
