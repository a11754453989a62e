//! A file server on loopback that can misbehave.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// How a request is answered.
#[derive(Clone, Copy)]
pub enum Manner {
    /// The file's bytes, after this many 503s.
    AfterFaults(usize),
    Status(u16),
    Slow,
    /// Whole files only, whatever range is asked for.
    NoRanges,
    /// ETags that name no exact bytes, and no answer to `If-Match`.
    WeakEtags,
}

/// A file server on loopback with ranges and ETags; gives its address and counts requests.
pub fn serve(folder: std::path::PathBuf, manner: Manner) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}/", listener.local_addr().unwrap());
    let requests = Arc::new(AtomicUsize::new(0));
    let counter = requests.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (folder, counter) = (folder.clone(), counter.clone());
            std::thread::spawn(move || {
                let _ = answer(stream, &folder, manner, &counter);
            });
        }
    });
    (address, requests)
}

fn answer(
    mut stream: std::net::TcpStream,
    folder: &std::path::Path,
    manner: Manner,
    counter: &AtomicUsize,
) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    loop {
        let mut request = String::new();
        if reader.read_line(&mut request)? == 0 {
            return Ok(());
        }
        let (mut range, mut if_match) = (None, false);
        loop {
            let mut header = String::new();
            reader.read_line(&mut header)?;
            if header.trim().is_empty() {
                break;
            }
            if_match |= header.to_ascii_lowercase().starts_with("if-match:");
            if let Some(value) = header.to_ascii_lowercase().strip_prefix("range: bytes=") {
                let (from, to) = value.trim().split_once('-').unwrap();
                range = Some((from.parse::<u64>().unwrap(), to.parse::<u64>().ok()));
            }
        }
        let number = counter.fetch_add(1, Ordering::SeqCst);
        match manner {
            Manner::Status(code) => {
                write!(stream, "HTTP/1.1 {code} No\r\ncontent-length: 0\r\n\r\n")?;
                continue;
            }
            Manner::Slow => std::thread::sleep(Duration::from_secs(30)),
            Manner::AfterFaults(faults) if number < faults => {
                write!(stream, "HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n")?;
                continue;
            }
            Manner::WeakEtags if if_match => {
                write!(stream, "HTTP/1.1 412 Precondition Failed\r\ncontent-length: 0\r\n\r\n")?;
                continue;
            }
            Manner::NoRanges => range = None,
            Manner::AfterFaults(_) | Manner::WeakEtags => {}
        }
        let mut words = request.split_whitespace();
        let (method, path) = (words.next().unwrap_or(""), words.next().unwrap_or("/").trim_start_matches('/'));
        let Ok(mut file) = std::fs::File::open(folder.join(path)) else {
            write!(stream, "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")?;
            continue;
        };
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let total = bytes.len() as u64;
        let weak = if matches!(manner, Manner::WeakEtags) { "W/" } else { "" };
        let common = format!(
            "etag: {weak}\"{total}\"\r\nlast-modified: Sun, 22 Nov 2026 00:00:00 GMT\r\naccept-ranges: bytes\r\n"
        );
        let body = match range {
            Some((from, to)) => {
                let end = to.map_or(total, |t| (t + 1).min(total));
                let body = bytes[from.min(total) as usize..end as usize].to_vec();
                write!(
                    stream,
                    "HTTP/1.1 206 Partial\r\n{common}content-range: bytes {from}-{}/{total}\r\ncontent-length: {}\r\n\r\n",
                    end.saturating_sub(1),
                    body.len()
                )?;
                body
            }
            None => {
                write!(stream, "HTTP/1.1 200 OK\r\n{common}content-length: {total}\r\n\r\n")?;
                bytes
            }
        };
        if method == "GET" {
            stream.write_all(&body)?;
        }
    }
}
