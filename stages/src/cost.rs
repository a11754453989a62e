//! What networks cost: parameters, operations and memory, counted from their configurations.
//!
//! An operation is an addition or a multiplication of a matrix product; everything else is small beside them.

use models::clip::{ClipConfig, Pool, Stem};
use models::instructblip::{InstructBlipConfig, LanguageConfig};
use models::language::{LlamaConfig, T5Config};
use models::llava::LlavaConfig;
use models::sam::{EncoderConfig, SamConfig};
use models::sentence::BertConfig;

/// Transformer layers of one width.
#[derive(Clone, Copy, Debug)]
struct Layers {
    width: usize,
    hidden: usize,
    number: usize,
}

impl Layers {
    /// Matrices and biases of attention and MLP, and two layer norms.
    fn parameters(self) -> u64 {
        let (w, h) = (self.width, self.hidden);
        (self.number * (4 * w * (w + 1) + 2 * w * h + h + w + 4 * w)) as u64
    }

    /// Of one sequence that looks at itself.
    fn operations(self, tokens: usize) -> f64 {
        self.operations_of(tokens, tokens)
    }

    /// Of one sequence of which each token looks at `seen` others.
    fn operations_of(self, tokens: usize, seen: usize) -> f64 {
        let (w, h, t) = (self.width as f64, self.hidden as f64, tokens as f64);
        self.number as f64 * (2.0 * t * (4.0 * w * w + 2.0 * w * h) + 4.0 * t * seen as f64 * w)
    }

    /// Numbers that the way back of one layer and token needs: two inputs of norms, queries, keys and values, what
    /// attention gives, and the hidden layer before and after its non-linearity. Some of them are made anew instead.
    fn kept(self) -> usize {
        4 * self.width + 2 * self.hidden
    }
}

/// One tower of a CLIP.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TowerCost {
    /// Numbers that are learnt.
    pub parameters: u64,
    /// Operations of one image or text.
    pub operations: f64,
    /// Numbers that a layer makes of one image or text.
    pub layer: u64,
    /// Numbers that go from layer to layer, all of them together.
    between: u64,
    layers: u64,
}

impl TowerCost {
    fn new(layers: Layers, tokens: usize, other_parameters: usize, other_operations: f64) -> Self {
        Self {
            parameters: layers.parameters() + other_parameters as u64,
            operations: layers.operations(tokens) + other_operations,
            layer: (tokens * layers.kept()) as u64,
            between: (tokens * layers.width * layers.number) as u64,
            layers: layers.number as u64,
        }
    }

    /// Numbers that the way back of one image or text needs: of all layers, or of one at a time that runs again.
    pub fn kept(&self, recomputed: bool) -> u64 {
        if recomputed { self.between + self.layer } else { self.layers * self.layer }
    }
}

/// Both towers of a CLIP.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ClipCost {
    /// The tower of images.
    pub image: TowerCost,
    /// The tower of captions.
    pub text: TowerCost,
}

impl ClipCost {
    /// Counts a network by its configuration.
    pub fn of(config: &ClipConfig) -> Self {
        let (v, t, embed) = (&config.vision, &config.text, config.embed_dim);
        let (stem, stem_operations) = stem(config);
        let class_token = usize::from(v.pool == Pool::Cls) * v.width;
        let image = class_token + stem + v.tokens() * v.width + 4 * v.width + v.width * embed;
        let layers = Layers { width: v.width, hidden: v.mlp_width(), number: v.layers };
        let projection = 2.0 * (v.width * embed) as f64;
        let image = TowerCost::new(layers, v.tokens(), image, stem_operations + projection);
        let text = (t.vocab_size + t.context_length) * t.width + 2 * t.width + t.width * embed;
        let layers = Layers { width: t.width, hidden: t.mlp_width(), number: t.layers };
        let text = TowerCost::new(layers, t.context_length, text, 2.0 * (t.width * embed) as f64);
        Self { image, text }
    }

    /// With the temperature.
    pub fn parameters(&self) -> u64 {
        self.image.parameters + self.text.parameters + 1
    }
}

/// A sentence encoder.
#[derive(Clone, Copy, Debug)]
pub struct SentenceCost {
    /// Numbers that it has.
    pub parameters: u64,
    layers: Layers,
    most_tokens: usize,
}

impl SentenceCost {
    /// Counts a network by its configuration.
    pub fn of(config: &BertConfig) -> Self {
        let c = config;
        let layers = Layers { width: c.hidden_size, hidden: c.intermediate_size, number: c.num_hidden_layers };
        let tables = (c.vocab_size + c.max_position_embeddings + c.type_vocab_size + 2) * c.hidden_size;
        Self { parameters: layers.parameters() + tables as u64, layers, most_tokens: c.max_tokens() }
    }

    /// Operations of a text of so many tokens.
    pub fn operations(&self, tokens: usize) -> f64 {
        self.layers.operations(tokens.min(self.most_tokens))
    }
}

/// Parameters and operations of what makes tokens of pixels.
fn stem(config: &ClipConfig) -> (usize, f64) {
    let v = &config.vision;
    let channels: &[usize] = match &v.stem {
        Stem::Patch => {
            let weights = 3 * v.patch_size.pow(2) * v.width;
            return (weights, 2.0 * (weights * v.grid().pow(2)) as f64);
        }
        Stem::Conv { channels, .. } => channels,
        // is not trained here, and estimates of a judge do without it
        Stem::ResNet { .. } => return (0, 0.0),
    };
    let (mut inputs, mut side, mut parameters, mut operations) = (3, v.image_size, 0, 0.0);
    for &outputs in channels.iter().chain([&v.width]) {
        side = side.div_ceil(2);
        let weights = 9 * inputs * outputs;
        parameters += weights + 3 * outputs;
        operations += 2.0 * (weights * side * side) as f64;
        inputs = outputs;
    }
    (parameters, operations)
}

/// A Segment Anything.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SamCost {
    /// Numbers that were learnt.
    pub parameters: u64,
    /// Operations of embedding one image.
    pub encoder: f64,
    /// Operations of the masks of one point.
    pub point: f64,
    /// Numbers that the encoder holds for an image at most.
    pub image_held: u64,
    /// Numbers that the decoder holds for a point at most.
    pub point_held: u64,
}

impl SamCost {
    /// Counts a network by its configuration.
    pub fn of(config: &SamConfig) -> Self {
        let (d, side) = (&config.decoder, config.embedding_side());
        let positions = side * side;
        let (encoder_parameters, encoder, image_held) = match &config.encoder {
            EncoderConfig::Vit(vit) => {
                let layers = Layers { width: vit.width, hidden: vit.mlp_width, number: vit.depth };
                let within = vit.depth - vit.global_blocks.len();
                // what fills up the last windows is seen and not computed
                let in_windows = Layers { number: within, ..layers }.operations_of(positions, vit.window.pow(2));
                let whole = Layers { number: vit.global_blocks.len(), ..layers }.operations(positions);
                let patches = 3 * vit.patch_size.pow(2) * vit.width;
                let head = vit.width / vit.heads.max(1);
                let relative = 2 * head * (within * (2 * vit.window - 1) + vit.global_blocks.len() * (2 * side - 1));
                let neck = vit.width * d.width + 9 * d.width * d.width + 4 * d.width;
                let parameters =
                    layers.parameters() + (patches + vit.width + positions * vit.width + relative + neck) as u64;
                let around = 2.0 * (positions * (patches + neck)) as f64;
                (parameters, in_windows + whole + around, positions * layers.kept())
            }
            // MobileSAM's TinyViT, as it is published: 6 million parameters, 76 billion operations of 1024 pixels
            EncoderConfig::TinyVit(_) => {
                (6_100_000, 76e9 * (config.image_size as f64 / 1024.0).powi(2), positions * 4 * 320)
            }
        };
        let (w, inner) = (d.width, d.width / d.attention_downsample.max(1));
        // tokens are few: what counts is what is done at every position, in each layer and once more at the end
        let attention = positions * (2 * w * inner * (2 * d.depth + 1));
        let upscaling = positions * (w * w / 4 * 4) + 4 * positions * (w / 4 * w / 8 * 4);
        let masks = 16 * positions * (w / 8) * d.multimask_outputs;
        let token_layers = d.depth * (4 * w * w + 2 * 4 * w * inner + 2 * w * d.mlp_width) + 4 * w * inner;
        let heads = (d.multimask_outputs + 2) * (2 * w * w + w * d.iou_head_width.max(w) / 8);
        Self {
            parameters: encoder_parameters + (token_layers + heads + w * w / 4 * 4 + w * w / 8) as u64,
            encoder,
            point: 2.0 * (attention + upscaling + masks) as f64,
            image_held: image_held as u64,
            point_held: (positions * (4 * w + 16 * d.multimask_outputs)) as u64,
        }
    }
}

/// A network that captions images.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CaptionerCost {
    /// Numbers that were learnt.
    pub parameters: u64,
    /// Operations of an image and its instruction of so many tokens, before the first word.
    image: f64,
    /// Of one token that the language model reads or writes, positions before it apart.
    token: f64,
    /// Of one token for each position before it.
    position: f64,
    /// Numbers of keys and values of one position.
    pub cached: u64,
    /// Parameters that are kept in f32 where the others are in f16.
    pub wide_in_f16: u64,
    prompt: usize,
}

impl CaptionerCost {
    /// Counts an InstructBLIP by its configuration.
    pub fn of_instructblip(config: &InstructBlipConfig) -> Self {
        let (v, q) = (&config.vision, &config.qformer);
        let vision = Layers { width: v.hidden_size, hidden: v.intermediate_size, number: v.num_hidden_layers };
        let patches = 3 * v.patch_size.pow(2) * v.hidden_size;
        let vision_parameters = vision.parameters() + (patches + v.hidden_size * (v.tokens() + 4)) as u64;
        let looks = q.num_hidden_layers.div_ceil(q.cross_attention_frequency.max(1));
        let own = Layers { width: q.hidden_size, hidden: q.intermediate_size, number: q.num_hidden_layers };
        let looking = 2 * q.hidden_size * (q.hidden_size + v.hidden_size);
        // a second MLP for queries
        let second = q.num_hidden_layers * 2 * q.hidden_size * q.intermediate_size;
        let words = (q.vocab_size + q.max_position_embeddings + config.num_query_tokens) * q.hidden_size;
        let qformer_parameters = own.parameters() + (looks * looking + second + words) as u64;
        let seen = looks as f64 * 2.0 * (v.tokens() * 2 * q.hidden_size * v.hidden_size) as f64;
        // queries beside an instruction of as many tokens
        let qformer = own.operations(2 * config.num_query_tokens) + seen;
        let projection = q.hidden_size * config.language.width();
        let (language, token, position, cached) = match &config.language {
            LanguageConfig::Llama(llama) => llama_cost(llama),
            LanguageConfig::T5(t5) => t5_cost(t5),
        };
        let wide_in_f16 = match &config.language {
            LanguageConfig::Llama(_) => 0,
            LanguageConfig::T5(t5) => (t5.num_layers + t5.decoder_layers()) * t5.d_model * t5.d_ff,
        };
        let see = vision.operations(v.tokens()) + 2.0 * (patches * v.tokens()) as f64;
        Self {
            parameters: vision_parameters + qformer_parameters + projection as u64 + language,
            image: see + qformer + 2.0 * (projection * config.num_query_tokens) as f64,
            token,
            position,
            cached,
            wide_in_f16: wide_in_f16 as u64,
            // the queries, and as many tokens of the instruction
            prompt: 2 * config.num_query_tokens,
        }
    }

    /// Counts a LLaVA by its configuration.
    pub fn of_llava(config: &LlavaConfig) -> Self {
        let (v, tokens) = (&config.vision, config.image_tokens());
        let seen = (v.image_size / v.patch_size.max(1)).pow(2) + 1;
        let all = Layers { width: v.hidden_size, hidden: v.intermediate_size, number: v.num_hidden_layers };
        let run = Layers { number: config.feature_layers, ..all };
        let patches = 3 * v.patch_size.pow(2) * v.hidden_size;
        let width = config.language.hidden_size;
        let projector = v.hidden_size * width + width * width;
        let (language, token, position, cached) = llama_cost(&config.language);
        Self {
            parameters: run.parameters()
                + (patches + v.hidden_size * (seen + 3) + projector + 2 * width) as u64
                + language,
            image: run.operations(seen) + 2.0 * (patches * seen + projector * tokens) as f64,
            token,
            position,
            cached,
            wide_in_f16: 0,
            prompt: tokens + WORDS_OF_A_PROMPT,
        }
    }

    /// Positions of the prompt, the image's and the instruction's.
    pub fn prompt(&self) -> usize {
        self.prompt
    }

    /// Operations until the first word of one image.
    pub fn reading(&self) -> f64 {
        let prompt = self.prompt() as f64;
        self.image + prompt * (self.token + self.position * prompt / 2.0)
    }

    /// Operations of writing so many tokens with so many beams.
    pub fn writing(&self, tokens: usize, beams: usize) -> f64 {
        let before = self.prompt() as f64 + tokens as f64 / 2.0;
        (tokens * beams) as f64 * (self.token + self.position * before)
    }
}

/// Tokens of a prompt with an image's tags and of the chat around it.
const WORDS_OF_A_PROMPT: usize = 64;

/// Parameters, operations of a token, of a position before it, and numbers kept of a position.
fn llama_cost(c: &LlamaConfig) -> (u64, f64, f64, u64) {
    let (width, heads) = (c.hidden_size, c.num_attention_heads * c.head_width());
    let keys = c.kv_heads() * c.head_width();
    let layer = 2 * width * heads + 2 * width * keys + 3 * width * c.intermediate_size;
    let words = c.vocab_size * width;
    let tables = if c.tie_word_embeddings { words } else { 2 * words };
    let parameters = c.num_hidden_layers * (layer + 2 * width) + tables + width;
    let token = 2.0 * (c.num_hidden_layers * layer + words) as f64;
    let position = 4.0 * (c.num_hidden_layers * heads) as f64;
    (parameters as u64, token, position, (2 * c.num_hidden_layers * keys) as u64)
}

/// The same; tokens are read by the encoder and written by the decoder, which cost about the same. A position is in one of
/// the decoder's two caches: the prompt's in that of cross attention, what was written in its own.
fn t5_cost(c: &T5Config) -> (u64, f64, f64, u64) {
    let (attention, gated) = (4 * c.d_model * c.inner_width(), 3 * c.d_model * c.d_ff);
    let encoder = c.num_layers * (attention + gated);
    let decoder = c.decoder_layers() * (2 * attention + gated);
    let words = c.vocab_size * c.d_model;
    let tables = if c.tie_word_embeddings { words } else { 2 * words };
    let held = c.decoder_layers() * c.inner_width();
    let token = 2.0 * (decoder + words) as f64;
    ((encoder + decoder + tables) as u64, token, 4.0 * held as f64, 2 * held as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use choices::Preset;
    use serde_json::json;
    use std::path::Path;

    fn near(value: f64, wanted: f64, share: f64) {
        assert!((value / wanted - 1.0).abs() < share, "{value:e} for {wanted:e}");
    }

    /// Parameters as they are published, operations as open_clip counts them.
    #[test]
    fn clips_have_the_published_sizes() {
        for (preset, parameters, image, text) in
            [(Preset::VitL14, 427_616_513, 162.03e9, 13.30e9), (Preset::VitB32, 151_277_313, 8.82e9, 5.96e9)]
        {
            let cost = ClipCost::of(&ClipConfig::preset(preset));
            assert_eq!(cost.parameters(), parameters);
            near(cost.image.operations, image, 0.002);
            near(cost.text.operations, text, 0.002);
        }
    }

    /// By hand: a layer of ViT-L/14 has 12 x 1024 x 1024 weights, for 257 tokens.
    #[test]
    fn a_layer_is_counted_as_by_hand() {
        let layers = Layers { width: 1024, hidden: 4096, number: 1 };
        assert_eq!(layers.parameters(), 12 * 1024 * 1024 + 4 * 1024 + 4096 + 1024 + 4 * 1024);
        let products = 2.0 * 257.0 * 12.0 * 1024.0 * 1024.0;
        assert_eq!(layers.operations(257), products + 4.0 * 257.0 * 257.0 * 1024.0);
    }

    #[test]
    fn a_small_network_is_near_what_it_has() {
        let mut config = ClipConfig::preset(Preset::Small);
        config.text.vocab_size = 1600;
        let clip = models::clip::Clip::init(&config, 1, &candle_core::Device::Cpu, candle_core::DType::F32).unwrap();
        near(ClipCost::of(&config).parameters() as f64, clip.parameters().num_elements() as f64, 0.01);
    }

    /// facebook/sam-vit-huge has 641 million parameters. Its encoder is published with 2,973 billion multiplications, of
    /// which the original spends four products in each of 28 layers on the 804 positions that fill up its windows.
    #[test]
    fn segment_anything_has_the_published_sizes() {
        let cost = SamCost::of(&SamConfig::preset("vit-h").unwrap());
        near(cost.parameters as f64, 641.1e6, 0.005);
        let filling = 28.0 * 804.0 * 4.0 * 1280.0 * 1280.0;
        near(cost.encoder, 2.0 * (2.973e12 - filling), 0.02);
        assert!(SamCost::of(&SamConfig::preset("mobile").unwrap()).encoder < cost.encoder / 20.0);
    }

    /// Salesforce/instructblip-vicuna-7b has 7.91 billion parameters, of which LLaMA 6,738,415,616.
    #[test]
    fn instructblip_has_the_published_sizes() {
        let json = json!({ "model_type": "instructblip", "text_config": { "model_type": "llama" } });
        let config = InstructBlipConfig::from_json(Path::new("x"), json).unwrap();
        let (llama, token, _, cached) = llama_cost(&LlamaConfig::default());
        assert_eq!(llama, 6_738_415_616);
        // two operations a weight; the table of words is looked up, not multiplied
        near(token, 2.0 * (llama - 32_000 * 4096) as f64, 0.001);
        assert_eq!(cached, 2 * 32 * 4096);
        // google/flan-t5-xl: 24 layers of 32 heads of 64, keys and values of each position in one of two caches
        let xl = T5Config { d_model: 2048, d_kv: 64, num_heads: 32, num_layers: 24, ..T5Config::default() };
        assert_eq!(t5_cost(&xl).3, 2 * 24 * 2048);
        let cost = CaptionerCost::of_instructblip(&config);
        near(cost.parameters as f64, 7.91e9, 0.005);
        near(cost.writing(256, 5), 256.0 * 5.0 * token, 0.05);
    }
}
