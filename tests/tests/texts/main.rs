//! Captions, what scores them, and search of text by text; segments.

mod caption_scores;
mod caption_server;
mod instructblip;
mod llava;
mod sam;
mod second_pass;
mod structured_captions;
mod text_retrieval;
