//! A server that misbehaves by script: it speaks the NATS protocol as far as its script wants, and nonsense from there.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;

use crate::loopback_server::{LoopbackThread, free_listener};

/// What it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Script {
    /// Greets with bytes that are no protocol.
    GarbageGreeting,
    /// Begins a greeting that never ends, as fast as it is read, up to 8 MiB.
    EndlessGreeting,
    /// A greeting that is no JSON.
    BrokenGreeting,
    /// Closes every connection at once.
    ClosesAtOnce,
    /// Greets and never says anything again.
    SilentAfterConnect,
    /// Greets one byte in a tenth of a second.
    SlowGreeting,
    /// Answers every request with a message of ten gigabytes, of which nothing comes.
    HugeAnswers,
    /// Answers every request with something that is no JSON.
    BrokenAnswers,
    /// Answers every request with JSON of another form.
    OtherAnswers,
    /// Confirms every request as message 0 of another stream.
    WrongConfirmations,
    /// Refuses every request with an unknown code and a long text with line breaks.
    OddRefusals,
    /// Sends lines that are no protocol after the handshake.
    GarbageAfterConnect,
}

impl Script {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::GarbageGreeting,
        Self::EndlessGreeting,
        Self::BrokenGreeting,
        Self::ClosesAtOnce,
        Self::SilentAfterConnect,
        Self::SlowGreeting,
        Self::HugeAnswers,
        Self::BrokenAnswers,
        Self::OtherAnswers,
        Self::WrongConfirmations,
        Self::OddRefusals,
        Self::GarbageAfterConnect,
    ];

    /// What it answers to a request; nothing where it does not come that far.
    fn answer(self) -> Option<Vec<u8>> {
        Some(match self {
            Self::BrokenAnswers => b"{\"nonsense\": \xff\xfe".to_vec(),
            Self::OtherAnswers => br#"{"config":7,"state":"many","message":[],"stream":{},"seq":"x"}"#.to_vec(),
            Self::WrongConfirmations => br#"{"stream":"ANOTHER","seq":0,"duplicate":true,"type":"x"}"#.to_vec(),
            Self::OddRefusals => format!(
                r#"{{"error":{{"code":500,"err_code":99999,"description":"odd\nwith\nlines {}"}}}}"#,
                "x".repeat(2000)
            )
            .into_bytes(),
            Self::GarbageGreeting
            | Self::EndlessGreeting
            | Self::BrokenGreeting
            | Self::ClosesAtOnce
            | Self::SilentAfterConnect
            | Self::SlowGreeting
            | Self::HugeAnswers
            | Self::GarbageAfterConnect => return None,
        })
    }
}

/// The server. Dropping it ends it.
#[derive(Debug)]
pub struct ScriptedPeer {
    address: SocketAddr,
    _thread: LoopbackThread,
}

impl ScriptedPeer {
    /// Starts one that follows a script with every connection.
    pub fn start(script: Script) -> Self {
        let (listener, address) = free_listener();
        let thread = LoopbackThread::start("scripted peer", move || async move {
            let listener = TcpListener::from_std(listener).expect("the listener can be served");
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(async move {
                    // Clients that give up are what it is for.
                    let _ = follow(client, script).await;
                });
            }
        });
        Self { address, _thread: thread }
    }

    /// Where clients connect to.
    pub fn url(&self) -> String {
        format!("nats://{}", self.address)
    }
}

const GREETING: &str = r#"INFO {"server_id":"N","server_name":"odd","version":"2.15.1","go":"x","host":"127.0.0.1","port":1,"headers":true,"max_payload":1048576,"proto":1,"client_id":1,"jetstream":true}"#;

async fn follow(client: TcpStream, script: Script) -> io::Result<()> {
    let (from, mut to) = client.into_split();
    match script {
        Script::ClosesAtOnce => return Ok(()),
        Script::GarbageGreeting => {
            to.write_all(b"\x00\x01HELLO {{{\r\n\xff\xff\r\n").await?;
            return wait_for_end(from).await;
        }
        Script::BrokenGreeting => {
            to.write_all(b"INFO {\"server_id\": nonsense\r\n").await?;
            return wait_for_end(from).await;
        }
        Script::EndlessGreeting => {
            to.write_all(b"INFO {\"server_id\":\"").await?;
            for _ in 0..128 {
                to.write_all(&vec![b'x'; 64 << 10]).await?;
            }
            return wait_for_end(from).await;
        }
        Script::SlowGreeting => {
            for byte in GREETING.as_bytes() {
                to.write_all(&[*byte]).await?;
                sleep(Duration::from_millis(100)).await;
            }
            return wait_for_end(from).await;
        }
        Script::SilentAfterConnect
        | Script::HugeAnswers
        | Script::BrokenAnswers
        | Script::OtherAnswers
        | Script::WrongConfirmations
        | Script::OddRefusals
        | Script::GarbageAfterConnect => to.write_all(format!("{GREETING}\r\n").as_bytes()).await?,
    }
    converse(BufReader::new(from), to, script).await
}

/// Reads until the client gives up.
async fn wait_for_end(mut from: OwnedReadHalf) -> io::Result<()> {
    let mut piece = [0; 1024];
    while from.read(&mut piece).await? > 0 {}
    Ok(())
}

async fn converse(mut from: BufReader<OwnedReadHalf>, mut to: OwnedWriteHalf, script: Script) -> io::Result<()> {
    let mut subscriptions: BTreeMap<String, String> = BTreeMap::new();
    let mut line = String::new();
    loop {
        line.clear();
        if from.read_line(&mut line).await? == 0 {
            return Ok(());
        }
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["PING"] if script == Script::SilentAfterConnect => {}
            ["PING"] => {
                to.write_all(b"PONG\r\n").await?;
                if script == Script::GarbageAfterConnect {
                    to.write_all(b"MSG\r\nMSG a b c d e f\r\nWHAT {}\r\n-ERR\r\n\x00\x00\r\n").await?;
                }
            }
            ["SUB", subject, .., sid] => {
                subscriptions.insert((*subject).to_owned(), (*sid).to_owned());
            }
            [verb @ ("PUB" | "HPUB"), rest @ ..] => {
                let size: usize = rest.last().and_then(|size| size.parse().ok()).unwrap_or_default();
                // Subject, perhaps a reply, and one size or two.
                let reply = (rest.len() == if *verb == "PUB" { 3 } else { 4 }).then(|| rest[1].to_owned());
                let mut payload = vec![0; size + 2];
                from.read_exact(&mut payload).await?;
                if let Some(reply) = reply
                    && let Some(sid) = subscriptions.iter().find_map(|(to, sid)| matches(to, &reply).then_some(sid))
                {
                    answer(&mut to, script, &reply, sid).await?;
                }
            }
            _ => {}
        }
    }
}

async fn answer(to: &mut OwnedWriteHalf, script: Script, reply: &str, sid: &str) -> io::Result<()> {
    if script == Script::HugeAnswers {
        return to.write_all(format!("MSG {reply} {sid} 10000000000\r\nbegin").as_bytes()).await;
    }
    let Some(answer) = script.answer() else { return Ok(()) };
    to.write_all(format!("MSG {reply} {sid} {}\r\n", answer.len()).as_bytes()).await?;
    to.write_all(&answer).await?;
    to.write_all(b"\r\n").await
}

fn matches(filter: &str, subject: &str) -> bool {
    match filter.strip_suffix('*').or_else(|| filter.strip_suffix('>')) {
        Some(prefix) => subject.starts_with(prefix),
        None => filter == subject,
    }
}
