//! A campaign of faults against both ends and against clusters: simulations in memory by the thousand, the same over
//! sockets, attacks on a server, and servers that misbehave.
//!
//! `tests/run` runs the sizes of CI, `tests/campaign` runs it for as long as you want. These variables set its size:
//!
//! | Variable | Meaning | Default |
//! |---|---|---|
//! | `CAMPAIGN_SEEDS` | the number of simulations | 2000 |
//! | `CAMPAIGN_SECONDS` | the time after which no other simulation begins | no limit |
//! | `CAMPAIGN_SEED` | the first seed | 0 |
//! | `CAMPAIGN_REPEATS` | the number of seeds that are run twice, to compare their histories | 50 |
//! | `CAMPAIGN_SOCKET_SECONDS` | the time of all tests over sockets together, about | 60 |
#![allow(unreachable_pub, reason = "no other crate uses a test crate")]

mod attacks;
mod history;
mod link;
mod nodes;
mod seeds;
mod sockets;
#[path = "../it/tapped.rs"]
mod tapped;
mod wire;
mod world;

use std::{
    env, panic,
    sync::{
        Mutex, MutexGuard, Once, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use allocation_counter::measure;

use crate::{
    history::{Fact, History},
    world::{Medium, Planned},
};

/// Returns the value of an environment variable, or its default.
fn setting(name: &str, default: u64) -> u64 {
    env::var(name).map_or(default, |value| value.parse().unwrap_or_else(|_| panic!("{name} is no number: {value}")))
}

/// Waits until no other part of the campaign runs. They would share the processors, and some measure times.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Counts panics that are not part of the campaign, and prints only those.
fn watch_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let print = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !info.payload().is::<Planned>() {
                seeds::UNPLANNED_PANICS.set(seeds::UNPLANNED_PANICS.get() + 1);
                print(info);
            }
        }));
    });
}

/// The figures of many simulations.
#[derive(Default)]
struct Figures {
    seeds: u64,
    calls: usize,
    responses: usize,
    /// The responses to calls from one node to another.
    remote: usize,
    links: usize,
    faults: usize,
    failed: Vec<u64>,
}

impl Figures {
    fn add(&mut self, seed: u64, history: &History) {
        self.seeds += 1;
        self.calls += history.count(|fact| matches!(fact, Fact::Made { .. }));
        self.responses += history.count(|fact| matches!(fact, Fact::Responded { .. }));
        self.remote += history.remote_responses();
        self.links += history.count(|fact| matches!(fact, Fact::Dialled { .. }));
        self.faults += history.count(|fact| matches!(fact, Fact::Fault { .. }));
        let violations = history.violations();
        if !violations.is_empty() {
            self.failed.push(seed);
            // The history of the first seeds that fail is enough.
            if self.failed.len() <= 3 {
                println!("seed {seed} failed, its history is:\n{history}");
            }
            println!("seed {seed} failed:\n  {}", violations.join("\n  "));
        }
    }
}

impl Figures {
    /// Prints the figures, and panics if a seed failed.
    fn report(&self, what: &str, started: Instant) {
        let Self { seeds, calls, responses, remote, links, faults, failed } = self;
        let seconds = started.elapsed().as_secs_f64();
        println!(
            "{seeds} {what} with {calls} calls, {responses} responses, {remote} of them over a cluster, {links} links and \
             {faults} faults in {seconds:.1} s, {:.1} a second",
            *seeds as f64 / seconds
        );
        assert!(failed.is_empty(), "these seeds failed: {failed:?}. Run one by CAMPAIGN_SEED=… CAMPAIGN_SEEDS=1");
    }

    /// Asserts that enough happened to find faults. A few seeds may differ from the average by `tolerance` times.
    fn assert_much(&self, tolerance: usize) {
        let Self { seeds, calls, responses, faults, .. } = *self;
        let seeds = seeds as usize;
        let is_much = calls * tolerance > 10 * seeds && responses * tolerance > calls / 4 && faults * tolerance > seeds;
        assert!(is_much, "{seeds} seeds test little: {calls} calls, {responses} responses, {faults} faults");
    }
}

/// Runs the simulation of a seed. Returns the bytes that it has left allocated.
fn run_and_add(seed: u64, figures: &Mutex<Figures>) -> i64 {
    let left = measure(|| {
        let history = seeds::run(seed, Medium::Memory);
        allocation_counter::opt_out(|| world::lock(figures).add(seed, &history));
    });
    left.bytes_current
}

#[test]
fn simulations_keep_the_rules() {
    let _alone = alone();
    watch_panics();
    let (first, seeds) = (setting("CAMPAIGN_SEED", 0), setting("CAMPAIGN_SEEDS", 2000));
    let (next, started) = (AtomicU64::new(first), Instant::now());
    let limit = Duration::from_secs(setting("CAMPAIGN_SECONDS", 3600 * 24));
    let figures = Mutex::new(Figures::default());
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + seeds || started.elapsed() > limit {
                        return;
                    }
                    let left = run_and_add(seed, &figures);
                    // What is allocated once for all seeds is not allocated again.
                    if left != 0 {
                        let mut left = 0;
                        let mut history = History::default();
                        left += measure(|| history = seeds::run(seed, Medium::Memory)).bytes_current;
                        left += measure(|| drop(history)).bytes_current;
                        if left != 0 {
                            println!("seed {seed} failed: it leaves {left} bytes allocated");
                            world::lock(&figures).failed.push(seed);
                        }
                    }
                }
            });
        }
    });
    let figures = figures.into_inner().expect("no panic");
    figures.report("simulations", started);
    if figures.seeds >= 100 {
        figures.assert_much(1);
        assert!(figures.remote as u64 > figures.seeds / 2, "only {} responses over a cluster", figures.remote);
    }
}

/// Simulations at once over sockets. Most of the time they wait.
const SOCKET_THREADS: u64 = 12;

#[test]
fn simulations_over_sockets_keep_the_rules() {
    let _alone = alone();
    watch_panics();
    let (first, started) = (setting("CAMPAIGN_SEED", 0), Instant::now());
    // A simulation takes up to twenty seconds.
    let limit = Duration::from_secs(setting("CAMPAIGN_SOCKET_SECONDS", 60)) / 8;
    let figures = Mutex::new(Figures::default());
    thread::scope(|scope| {
        for at in 0..SOCKET_THREADS {
            let figures = &figures;
            scope.spawn(move || {
                for seed in (first + at..).step_by(SOCKET_THREADS as usize) {
                    let history = seeds::run(seed, Medium::Sockets);
                    world::lock(figures).add(seed, &history);
                    if started.elapsed() > limit {
                        return;
                    }
                }
            });
        }
    });
    let figures = figures.into_inner().expect("no panic");
    figures.report("simulations over sockets", started);
    if figures.seeds >= SOCKET_THREADS {
        figures.assert_much(2);
    }
}

#[test]
fn simulation_of_a_seed_repeats_itself() {
    let _alone = alone();
    watch_panics();
    for seed in 0..setting("CAMPAIGN_REPEATS", 50) {
        let (first, second) = (seeds::run(seed, Medium::Memory).sorted(), seeds::run(seed, Medium::Memory).sorted());
        let differs = first.iter().zip(&second).find(|(first, second)| first != second);
        assert!(first == second, "seed {seed} repeats itself differently: {differs:?}");
        assert_ne!(first, seeds::run(seed + 1, Medium::Memory).sorted(), "the seed has no effect");
    }
}
