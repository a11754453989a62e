//! A server of chat completions on loopback that does what a test tells it.

use std::collections::HashMap;
use std::io::{BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::http_request::Request;

/// One request, as the server read it.
#[derive(Debug, Clone)]
pub struct Asked {
    /// Of all requests, from 0.
    pub number: usize,
    /// Of this image, from 0.
    pub try_of_image: usize,
    /// Images by the order in which they first came.
    pub image: usize,
    pub authorization: Option<String>,
    pub body: Value,
    pub at: Instant,
}

impl Asked {
    /// The words beside the image.
    pub fn prompt(&self) -> &str {
        self.body["messages"][0]["content"][0]["text"].as_str().unwrap()
    }
}

/// What is answered.
#[derive(Debug, Clone, Default)]
pub struct Says {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: String,
    /// Before the first byte.
    pub after: Duration,
}

impl Says {
    /// A completion with this text.
    pub fn text(text: &str) -> Says {
        let completion = json!({
            "model": "served-1", "system_fingerprint": "fp_7",
            "choices": [{ "message": { "role": "assistant", "content": text }, "finish_reason": "stop" }],
            "usage": { "prompt_tokens": 100, "completion_tokens": 10 },
        });
        Says { status: 200, body: completion.to_string(), ..Says::default() }
    }

    /// An error as OpenAI's servers write it.
    pub fn error(status: u16, code: &str) -> Says {
        let body = json!({ "error": { "message": format!("made to fail with {code}"), "code": code } }).to_string();
        Says { status, body, ..Says::default() }
    }
}

/// A running server; it ends with the process.
pub struct ChatServer {
    /// As `caption.server.url` has it.
    pub url: String,
    /// All questions, in the order in which they came.
    pub asked: Arc<Mutex<Vec<Asked>>>,
    /// The most that were under way at once.
    pub most_at_once: Arc<AtomicUsize>,
}

impl ChatServer {
    /// Answers questions as `says` does, and lists one model.
    pub fn start(says: impl Fn(&Asked) -> Says + Send + Sync + 'static) -> ChatServer {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/v1", listener.local_addr().unwrap());
        let state = Arc::new(State {
            says: Box::new(says),
            asked: Arc::default(),
            images: Mutex::default(),
            now: AtomicUsize::new(0),
            most: Arc::default(),
        });
        let (asked, most_at_once) = (state.asked.clone(), state.most.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = state.clone();
                std::thread::spawn(move || {
                    let _ = answer(stream, &state);
                });
            }
        });
        ChatServer { url, asked, most_at_once }
    }

    pub fn requests(&self) -> usize {
        self.asked.lock().unwrap().len()
    }
}

type Answers = Box<dyn Fn(&Asked) -> Says + Send + Sync>;

struct State {
    says: Answers,
    asked: Arc<Mutex<Vec<Asked>>>,
    /// By the data URL: its number and how often it came.
    images: Mutex<HashMap<String, (usize, usize)>>,
    now: AtomicUsize,
    most: Arc<AtomicUsize>,
}

fn answer(mut stream: TcpStream, state: &State) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    loop {
        let Some(Request { line: request, authorization, body }) = Request::read(&mut reader)? else { return Ok(()) };
        let says = if request.starts_with("GET ") {
            let listed = json!({ "object": "list", "data": [{ "id": "m" }, { "id": "n" }] });
            Says { status: 200, body: listed.to_string(), ..Says::default() }
        } else {
            let now = state.now.fetch_add(1, Ordering::SeqCst) + 1;
            state.most.fetch_max(now, Ordering::SeqCst);
            let says = (state.says)(&state.note(serde_json::from_slice(&body).unwrap(), authorization));
            std::thread::sleep(says.after);
            state.now.fetch_sub(1, Ordering::SeqCst);
            says
        };
        write!(stream, "HTTP/1.1 {} X\r\ncontent-length: {}\r\n", says.status, says.body.len())?;
        for (name, value) in &says.headers {
            write!(stream, "{name}: {value}\r\n")?;
        }
        write!(stream, "\r\n{}", says.body)?;
    }
}

impl State {
    fn note(&self, body: Value, authorization: Option<String>) -> Asked {
        let url = body["messages"][0]["content"][1]["image_url"]["url"].as_str().unwrap_or_default().to_owned();
        let (image, try_of_image) = {
            let mut images = self.images.lock().unwrap();
            let next = images.len();
            let entry = images.entry(url).or_insert((next, 0));
            entry.1 += 1;
            (entry.0, entry.1 - 1)
        };
        let mut asked = self.asked.lock().unwrap();
        let number = asked.len();
        asked.push(Asked { number, try_of_image, image, authorization, body, at: Instant::now() });
        asked[number].clone()
    }
}
