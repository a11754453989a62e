//! Validation during training: each rank embeds its share of the rows, then all have them all.

use candle_core::{Device, Tensor};
use choices::Protocol;
use models::dual_encoder::DualEncoder;
use serde::{Deserialize, Serialize};
use training::communicator::Communicator;
use training::recall::BothWays;

use crate::encoder::Encoder;
use crate::evaluate::{EvaluatedRow, recall_of};
use crate::stage::StageError;
use crate::train_rows::TrainRows;

/// Recall over a whole split, exact pairs, ties lost.
pub(crate) fn recall<N: DualEncoder>(
    encoder: &Encoder<'_, N>,
    rows: &mut dyn TrainRows,
    ranks: &mut dyn Communicator,
) -> Result<BothWays, StageError> {
    let compute = |why: String| StageError::Compute { stage: encoder.stage, why };
    let mut evaluated = Vec::new();
    let filled: Vec<usize> = (0..rows.groups().len()).filter(|&group| rows.groups()[group] > 0).collect();
    for &group in filled.iter().skip(ranks.rank()).step_by(ranks.world_size()) {
        let read = rows.read(group).map_err(|e| StageError::of(encoder.stage, &e))?;
        evaluated.extend(encoder.encode(read)?);
    }
    if ranks.world_size() > 1 {
        let device = encoder.network.device().clone();
        let packed = gather_bytes(&pack(&evaluated), &device, ranks).map_err(|e| StageError::of(encoder.stage, &e))?;
        evaluated.clear();
        for bytes in packed {
            evaluated.extend(unpack(&bytes).map_err(compute)?);
        }
    }
    Ok(recall_of(&evaluated, Protocol::Standard)?.report.exact.pessimistic)
}

/// The texts of an embedded row; its vectors follow all of them as plain numbers.
#[derive(Serialize, Deserialize)]
struct Texts {
    image_id: String,
    bytes_digest: String,
    captions: Vec<String>,
    dim: usize,
}

fn pack(rows: &[EvaluatedRow]) -> Vec<u8> {
    let texts: Vec<Texts> = rows
        .iter()
        .map(|row| Texts {
            image_id: row.image_id.clone(),
            bytes_digest: row.bytes_digest.clone(),
            captions: row.captions.iter().map(|(text, _)| text.clone()).collect(),
            dim: row.embedding.len(),
        })
        .collect();
    let texts = serde_json::to_vec(&texts).expect("plain data serialises");
    let mut packed = (texts.len() as u64).to_le_bytes().to_vec();
    packed.extend(texts);
    for row in rows {
        let vectors = std::iter::once(&row.embedding).chain(row.captions.iter().map(|(_, vector)| vector));
        packed.extend(vectors.flatten().flat_map(|value| value.to_le_bytes()));
    }
    packed
}

fn unpack(packed: &[u8]) -> Result<Vec<EvaluatedRow>, String> {
    let cut = || "embedded rows of another rank are cut off".to_owned();
    let (length, rest) = packed.split_first_chunk::<8>().ok_or_else(cut)?;
    let (texts, vectors) = rest.split_at_checked(u64::from_le_bytes(*length) as usize).ok_or_else(cut)?;
    let texts: Vec<Texts> = serde_json::from_slice(texts).map_err(|e| format!("embedded rows of another rank: {e}"))?;
    let mut values = vectors.chunks_exact(4).map(|v| f32::from_le_bytes([v[0], v[1], v[2], v[3]]));
    let mut vector = |dim: usize| -> Result<Vec<f32>, String> {
        let vector: Vec<f32> = values.by_ref().take(dim).collect();
        if vector.len() == dim { Ok(vector) } else { Err(cut()) }
    };
    let mut rows = Vec::with_capacity(texts.len());
    for row in texts {
        let embedding = vector(row.dim)?;
        let mut captions = Vec::with_capacity(row.captions.len());
        for text in row.captions {
            captions.push((text, vector(row.dim)?));
        }
        rows.push(EvaluatedRow { image_id: row.image_id, bytes_digest: row.bytes_digest, embedding, captions });
    }
    Ok(rows)
}

/// The bytes of every rank, in rank order, of whatever length.
fn gather_bytes(bytes: &[u8], device: &Device, ranks: &mut dyn Communicator) -> training::Result<Vec<Vec<u8>>> {
    let length = Tensor::new(&[bytes.len() as i64], &Device::Cpu)?.to_device(device)?;
    let lengths: Vec<i64> = ranks.all_gather(&length)?.to_device(&Device::Cpu)?.to_vec1()?;
    // a GPU holds no tensor without elements
    let longest = lengths.iter().copied().max().unwrap_or(0).max(1) as usize;
    let mut padded = bytes.to_vec();
    padded.resize(longest, 0);
    let padded = Tensor::from_vec(padded, longest, &Device::Cpu)?.to_device(device)?;
    let all: Vec<u8> = ranks.all_gather(&padded)?.to_device(&Device::Cpu)?.to_vec1()?;
    Ok(all.chunks(longest).zip(lengths).map(|(bytes, length)| bytes[..length as usize].to_vec()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use training::communicator::Threads;

    fn row(id: usize) -> EvaluatedRow {
        let vector = |seed: usize| (0..3).map(|i| (seed * 7 + i) as f32 / 3.0).collect::<Vec<f32>>();
        let captions = (0..id % 3).map(|c| (format!("caption {c} ü"), vector(id + c))).collect();
        EvaluatedRow { image_id: format!("i{id}"), bytes_digest: "d".into(), embedding: vector(id), captions }
    }

    #[test]
    fn rows_of_all_ranks_come_to_each() {
        let rows: Vec<Vec<EvaluatedRow>> = vec![(0..4).map(row).collect(), Vec::new(), vec![row(9)]];
        let world = Threads::world(3, std::time::Duration::from_secs(20));
        std::thread::scope(|scope| {
            for (mut ranks, own) in world.into_iter().zip(&rows) {
                let all = &rows;
                scope.spawn(move || {
                    let gathered = gather_bytes(&pack(own), &Device::Cpu, &mut ranks).unwrap();
                    let unpacked: Vec<_> = gathered.iter().flat_map(|bytes| unpack(bytes).unwrap()).collect();
                    assert_eq!(format!("{unpacked:?}"), format!("{:?}", all.concat()));
                });
            }
        });
        let packed = pack(&rows[0]);
        assert!(unpack(&packed[..packed.len() - 1]).is_err() && unpack(&packed[..5]).is_err());
    }
}
