//! A TCP proxy that breaks, slows or silences what goes through it, by commands while it runs.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::sleep;

use crate::loopback_server::{LoopbackThread, free_listener};

/// Most bytes that are passed on at a time, so that limits and cuts are met closely.
const PIECE: usize = 4 << 10;

/// What the line does to what is sent over it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing: everything passes.
    None,
    /// Every connection is broken off, and no new one stays open.
    Cut,
    /// Connections stay open and new ones are accepted, and nothing arrives, in either direction. What was sent is
    /// delivered once the line is healed, as by a network that loses packets.
    Blackhole,
    /// What the client sends arrives, what the server answers does not.
    HalfOpen,
    /// What the server sends arrives, what the client sends does not.
    Deaf,
    /// Each piece takes so long.
    Delay(Duration),
    /// So many bytes a second in each direction of each connection.
    Limit(u64),
}

#[derive(Debug, Clone, Copy)]
struct Line {
    fault: Fault,
    /// Every connection that was opened under an earlier number is broken off.
    generation: u64,
}

/// What happens once clients have sent so many bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Breakage {
    /// Every connection is broken off in the middle of what was being sent, once; new ones pass.
    CutOnce,
    /// The line becomes this.
    Becomes(Fault),
}

#[derive(Debug)]
struct Counted {
    /// Bytes that clients may still send before the breakage.
    left: AtomicU64,
    sent: AtomicU64,
    breakage: Mutex<Breakage>,
}

/// The proxy. Dropping it ends it and all that goes through it.
#[derive(Debug)]
pub struct FaultProxy {
    address: SocketAddr,
    line: Arc<watch::Sender<Line>>,
    counted: Arc<Counted>,
    _thread: LoopbackThread,
}

impl FaultProxy {
    /// Starts one in front of a port of this machine.
    pub fn start(server: u16) -> Self {
        let (listener, address) = free_listener();
        let line = Arc::new(watch::Sender::new(Line { fault: Fault::None, generation: 0 }));
        let counted = Arc::new(Counted {
            left: AtomicU64::new(u64::MAX),
            sent: AtomicU64::new(0),
            breakage: Mutex::new(Breakage::CutOnce),
        });
        let (shared, counts) = (Arc::clone(&line), Arc::clone(&counted));
        let thread = LoopbackThread::start("fault proxy", move || async move {
            let listener = TcpListener::from_std(listener).expect("the listener can be served");
            while let Ok((client, _)) = listener.accept().await {
                let (line, counted) = (Arc::clone(&shared), Arc::clone(&counts));
                tokio::spawn(async move {
                    // Broken connections are what it is for.
                    let _ = carry(client, server, &line, &counted).await;
                });
            }
        });
        Self { address, line, counted, _thread: thread }
    }

    /// Where clients connect to.
    pub fn url(&self) -> String {
        format!("nats://{}", self.address)
    }

    /// From now on the line does this, to connections that exist as well.
    pub fn set(&self, fault: Fault) {
        self.line.send_modify(|line| line.fault = fault);
    }

    /// Everything passes again.
    pub fn heal(&self) {
        self.counted.left.store(u64::MAX, Ordering::SeqCst);
        self.set(Fault::None);
    }

    /// Breaks every connection off, once. New ones pass.
    pub fn cut_once(&self) {
        self.line.send_modify(|line| line.generation += 1);
    }

    /// Breaks the line once clients have sent so many more bytes.
    pub fn break_after(&self, bytes: u64, breakage: Breakage) {
        *self.counted.breakage.lock().unwrap_or_else(PoisonError::into_inner) = breakage;
        self.counted.left.store(bytes, Ordering::SeqCst);
    }

    /// How many bytes clients have sent so far.
    pub fn sent(&self) -> u64 {
        self.counted.sent.load(Ordering::SeqCst)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    ToServer,
    ToClient,
}

async fn carry(client: TcpStream, server: u16, line: &watch::Sender<Line>, counted: &Counted) -> io::Result<()> {
    let mut own = line.subscribe();
    let generation = own.borrow().generation;
    let broken = own.wait_for(|line| line.fault == Fault::Cut || line.generation != generation);
    let through = async {
        let server = TcpStream::connect(("127.0.0.1", server)).await?;
        let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
        tokio::try_join!(
            pass(from_client, to_server, Direction::ToServer, line, counted),
            pass(from_server, to_client, Direction::ToClient, line, counted),
        )
    };
    tokio::select! {
        _ = broken => Ok(()),
        ended = through => ended.map(|_| ()),
    }
}

async fn pass(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    direction: Direction,
    line: &watch::Sender<Line>,
    counted: &Counted,
) -> io::Result<()> {
    let mut own = line.subscribe();
    let mut piece = vec![0; PIECE];
    loop {
        let length = from.read(&mut piece).await?;
        if length == 0 {
            // The other direction must end as well: neither side half-closes on purpose.
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let open = own.wait_for(|line| match line.fault {
            Fault::Blackhole => false,
            Fault::HalfOpen => direction == Direction::ToServer,
            Fault::Deaf => direction == Direction::ToClient,
            Fault::None | Fault::Cut | Fault::Delay(_) | Fault::Limit(_) => true,
        });
        let fault = open.await.map_err(|_| io::ErrorKind::BrokenPipe)?.fault;
        match fault {
            Fault::Delay(delay) => sleep(delay).await,
            Fault::Limit(rate) => sleep(Duration::from_secs(1).mul_f64(share(length, rate))).await,
            Fault::None | Fault::Cut | Fault::Blackhole | Fault::HalfOpen | Fault::Deaf => {}
        }
        let whole = &piece[..length];
        if direction == Direction::ToClient {
            to.write_all(whole).await?;
            continue;
        }
        let bytes = u64::try_from(length).unwrap_or(u64::MAX);
        counted.sent.fetch_add(bytes, Ordering::SeqCst);
        let left = counted.left.load(Ordering::SeqCst);
        if left == u64::MAX || left > bytes {
            counted.left.store(if left == u64::MAX { left } else { left - bytes }, Ordering::SeqCst);
            to.write_all(whole).await?;
            continue;
        }
        counted.left.store(u64::MAX, Ordering::SeqCst);
        let breakage = *counted.breakage.lock().unwrap_or_else(PoisonError::into_inner);
        match breakage {
            Breakage::CutOnce => {
                to.write_all(&piece[..usize::try_from(left).unwrap_or(length)]).await?;
                line.send_modify(|line| line.generation += 1);
            }
            Breakage::Becomes(fault) => {
                line.send_modify(|line| line.fault = fault);
                to.write_all(whole).await?;
            }
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a share of a second of a few kilobytes")]
fn share(bytes: usize, rate: u64) -> f64 {
    bytes as f64 / rate.max(1) as f64
}
