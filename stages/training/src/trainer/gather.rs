//! The exchange of embeddings between ranks.

use candle_core::{DType, Device, Tensor, Var};
use models::dual_encoder::DualEncoder;

use super::forward::Embeddings;
use crate::batch::PairBatch;
use crate::communicator::Communicator;
use crate::error::{Error, Result};
use crate::objective::{Gathered, GatheredSegments, GatheredTokens};

/// Columns of the flags and keys that travel beside the embeddings.
const IMAGE_KEY: usize = 0;
const CAPTION_KEY: usize = 1;
const VALID: usize = 2;
const PRESENT: usize = 3;
const TARGET: usize = 4;
const WEIGHT: usize = 5;
const COLUMNS: usize = 6;

/// Exchanges embeddings and keys: two collectives, whatever the batch holds, and those of the tokens where there are any.
pub(super) fn gather<N: DualEncoder>(
    embeddings: &Embeddings,
    batch: &PairBatch,
    network: &N,
    ranks: &mut dyn Communicator,
) -> Result<Gathered> {
    let rows = batch.rows();
    let columns = embeddings.columns();
    let dim = embeddings.image_bd.dim(1)?;
    let all = ranks.all_gather(&Tensor::cat(&columns, 1)?)?;
    let leaf =
        |column: usize| -> Result<Var> { Ok(Var::from_tensor(&all.narrow(1, column * dim, dim)?.contiguous()?)?) };
    let keys = gather_keys(embeddings, batch, ranks)?;
    let column = |column: usize| keys.iter().skip(column).step_by(COLUMNS).copied();
    let count = column(IMAGE_KEY).len();
    if count != rows * ranks.world_size() {
        let problem = format!("{count} rows of {} ranks, this one has {rows}", ranks.world_size());
        return Err(Error::argument("global batch", problem));
    }
    let flags = |at: usize| column(at).map(|flag| flag != 0).collect::<Vec<bool>>();
    let segments = match embeddings.segment {
        Some(_) => Some(GatheredSegments { segment_nd: leaf(2)?, present_n: flags(PRESENT) }),
        None => None,
    };
    Ok(Gathered {
        image_nd: leaf(0)?,
        text_nd: leaf(1)?,
        segments,
        tokens: gather_tokens(embeddings, batch, network, ranks)?,
        logit_scale: network.logit_scale(),
        rows: rows * ranks.rank()..rows * (ranks.rank() + 1),
        image_keys_n: column(IMAGE_KEY).map(|key| key as u64).collect(),
        caption_keys_n: column(CAPTION_KEY).map(|key| key as u64).collect(),
        valid_n: flags(VALID),
        target_n: flags(TARGET),
        weight_n: column(WEIGHT).map(|bits| f64::from_bits(bits as u64)).collect(),
    })
}

/// Tokens with the ids that they are of, in the same order on every rank.
fn gather_tokens<N: DualEncoder>(
    embeddings: &Embeddings,
    batch: &PairBatch,
    network: &N,
    ranks: &mut dyn Communicator,
) -> Result<Option<GatheredTokens>> {
    let columns = [&embeddings.image_tokens, &embeddings.text_tokens, &embeddings.masked_tokens];
    if columns.iter().all(|column| column.is_none()) {
        return Ok(None);
    }
    let mut leaf = |tokens: &Option<Tensor>| -> Result<Option<Var>> {
        let Some(tokens) = tokens else { return Ok(None) };
        Ok(Some(Var::from_tensor(&ranks.all_gather(&tokens.contiguous()?)?)?))
    };
    let [image_nld, text_nld, masked_nld] = [leaf(columns[0])?, leaf(columns[1])?, leaf(columns[2])?];
    let length = batch.input_ids_bl.len() / batch.rows();
    let mut input_ids_nl = batch.input_ids_bl.clone();
    if ranks.world_size() > 1 {
        let ids: Vec<i64> = input_ids_nl.iter().map(|&id| i64::from(id)).collect();
        let ids = Tensor::from_vec(ids, (batch.rows(), length), &Device::Cpu)?.to_device(network.device())?;
        let all: Vec<i64> = ranks.all_gather(&ids)?.to_device(&Device::Cpu)?.flatten_all()?.to_vec1()?;
        input_ids_nl = all.into_iter().map(|id| id as u32).collect();
    }
    let is_token_nl = input_ids_nl.chunks_exact(length).flat_map(|ids| network.is_token(ids)).collect();
    Ok(Some(GatheredTokens { image_nld, text_nld, masked_nld, input_ids_nl, is_token_nl }))
}

fn gather_keys(embeddings: &Embeddings, batch: &PairBatch, ranks: &mut dyn Communicator) -> Result<Vec<i64>> {
    let rows = batch.rows();
    let mut keys = vec![0i64; rows * COLUMNS];
    for (row, keys) in keys.chunks_exact_mut(COLUMNS).enumerate() {
        let domains = batch.domains.as_ref();
        let weight = domains.map_or(1.0, |domains| domains.weights_b[row]);
        keys[IMAGE_KEY] = batch.image_keys[row] as i64;
        keys[CAPTION_KEY] = batch.caption_keys[row] as i64;
        keys[VALID] = i64::from(batch.valid[row]);
        keys[PRESENT] = embeddings.segment.as_ref().map_or(0, |segment| i64::from(segment.present_b[row]));
        keys[TARGET] = domains.map_or(0, |domains| i64::from(domains.target_b[row]));
        keys[WEIGHT] = weight.to_bits() as i64;
    }
    if ranks.world_size() == 1 {
        return Ok(keys);
    }
    let device = embeddings.image_bd.device();
    let keys = Tensor::from_vec(keys, (rows, COLUMNS), &Device::Cpu)?.to_device(device)?;
    Ok(ranks.all_gather(&keys)?.to_dtype(DType::I64)?.to_device(&Device::Cpu)?.flatten_all()?.to_vec1()?)
}
