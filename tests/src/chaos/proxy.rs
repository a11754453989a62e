//! Stands before an object store and lets one request in five go wrong.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::dice::Dice;

/// What goes wrong.
#[derive(Debug, Clone, Copy)]
enum Fault {
    /// The request never arrives, and this is the answer.
    Status(u16),
    Slow,
    /// The answer breaks off in its body.
    Cut,
    /// The request takes effect, and nothing is answered.
    Lost,
}

const FAULTS: [Fault; 5] = [Fault::Status(500), Fault::Status(503), Fault::Slow, Fault::Cut, Fault::Lost];
const ONE_IN: usize = 5;
const SLOW: Duration = Duration::from_millis(400);

pub struct Proxy {
    pub endpoint: String,
    faults: Arc<AtomicU32>,
}

impl Proxy {
    /// Starts before the store at `endpoint`. It ends with the process.
    pub fn start(endpoint: &str, dice: Dice) -> std::io::Result<Proxy> {
        let store = endpoint.trim_start_matches("http://").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let proxy =
            Proxy { endpoint: format!("http://{}", listener.local_addr()?), faults: Arc::new(AtomicU32::new(0)) };
        let (faults, dice) = (proxy.faults.clone(), Arc::new(Mutex::new(dice)));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (store, dice, faults) = (store.clone(), dice.clone(), faults.clone());
                std::thread::spawn(move || {
                    let fault = dice.lock().ok().and_then(|mut dice| {
                        let hit = dice.below(ONE_IN) == 0;
                        hit.then(|| *dice.choose(&FAULTS))
                    });
                    faults.fetch_add(u32::from(fault.is_some()), Ordering::Relaxed);
                    let _ = pass(stream, &store, fault);
                });
            }
        });
        Ok(proxy)
    }

    /// Requests that went wrong so far.
    pub fn faults(&self) -> u32 {
        self.faults.load(Ordering::Relaxed)
    }
}

/// Passes one request on, and its answer back; then the connection is closed.
fn pass(mut client: TcpStream, store: &str, fault: Option<Fault>) -> std::io::Result<()> {
    let request = request(&client)?;
    if let Some(Fault::Status(code)) = fault {
        write!(client, "HTTP/1.1 {code} No\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")?;
        return client.shutdown(Shutdown::Both);
    }
    if let Some(Fault::Slow) = fault {
        std::thread::sleep(SLOW);
    }
    let mut server = TcpStream::connect(store)?;
    server.write_all(&request)?;
    let mut answer = Vec::new();
    server.read_to_end(&mut answer)?;
    let end = match fault {
        Some(Fault::Lost) => 0,
        Some(Fault::Cut) => {
            let body = answer.windows(4).position(|w| w == b"\r\n\r\n").map_or(0, |at| at + 4);
            body + (answer.len() - body) / 2
        }
        _ => answer.len(),
    };
    client.write_all(&answer[..end])?;
    client.shutdown(Shutdown::Both)
}

/// A request whole, as it is passed on: the store closes the connection after its answer.
fn request(client: &TcpStream) -> std::io::Result<Vec<u8>> {
    let mut reader = BufReader::new(client);
    let (mut request, mut length) = (Vec::new(), 0);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let (name, value) = line.split_once(':').unwrap_or((&line, ""));
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse().unwrap_or(0);
        }
        if line.trim().is_empty() {
            request.extend_from_slice(b"connection: close\r\n\r\n");
            break;
        }
        if !name.eq_ignore_ascii_case("connection") {
            request.extend_from_slice(line.as_bytes());
        }
    }
    let head = request.len();
    request.resize(head + length, 0);
    reader.read_exact(&mut request[head..])?;
    Ok(request)
}
