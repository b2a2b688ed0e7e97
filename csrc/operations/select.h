// The arguments of select: what they must be, and the way to an implementation.
#pragma once

#include "../checks.h"
#include "../rows/select.h"
#include "../typed_data.h"

namespace hcnn_fast {

// The arguments of one call, in the order of the schema.
struct SelectTensors {
  const Tensor &point, &logits, &value, &certainty;
  int64_t starts;
  const Tensor &row, &winner, &best_point, &prediction;
};

inline void check_select(const SelectTensors& t) {
  check_dense_rows(t.point, "point");
  check_floating(t.point, "point");
  const Tensor& point = t.point;
  const int64_t rows = point.size(0);
  check_device(t.row, "row", point);
  check_dtype(t.row, "row", ScalarType::Long);
  STD_TORCH_CHECK(
      t.row.dim() == 2 && t.row.size(1) >= 1 && t.row.is_contiguous(),
      "row has shape ",
      describe(t.row),
      ", expected a contiguous [n, L] with L >= 1");
  const int64_t images = t.row.size(0);
  STD_TORCH_CHECK(t.starts >= 1, "starts is ", t.starts, ", expected at least 1");
  STD_TORCH_CHECK(
      rows == images * t.row.size(1) * t.starts,
      "point has ",
      rows,
      " rows, expected n * L * starts");
  check_device(t.logits, "logits", point);
  STD_TORCH_CHECK(
      t.logits.dim() == 2 && t.logits.size(0) == rows && t.logits.size(1) >= 1 &&
          t.logits.is_contiguous(),
      "logits has shape ",
      describe(t.logits),
      ", expected a contiguous [",
      rows,
      ", C] with C >= 1");
  check_defined(t.value, "value");
  check_floating(t.value, "value");
  check_vector(t.value, "value", rows, t.value.scalar_type(), point);
  check_vector(t.certainty, "certainty", rows, t.value.scalar_type(), point);
  check_vector(t.winner, "winner", images, ScalarType::Long, point);
  check_vector(t.prediction, "prediction", images, ScalarType::Long, point);
  check_rows_like(t.best_point, "best_point", images, point);
  check_dtype(t.best_point, "best_point", point.scalar_type());
  check_separate(
      {span_of(t.row, "row"),
       span_of(t.winner, "winner"),
       span_of(t.best_point, "best_point"),
       span_of(t.prediction, "prediction"),
       span_of(point, "point"),
       span_of(t.logits, "logits"),
       span_of(t.value, "value"),
       span_of(t.certainty, "certainty")},
      4);
}

template <typename T, typename L>
SelectArguments<T, L> select_arguments(const SelectTensors& t) {
  return {
      data<const unsigned char>(t.point),
      data<const L>(t.logits),
      data<const T>(t.value),
      data<const T>(t.certainty),
      t.row.size(1),
      t.starts,
      t.logits.size(1),
      row_elements(t.point) * static_cast<int64_t>(t.point.element_size()),
      data<int64_t>(t.row),
      data<int64_t>(t.winner),
      data<unsigned char>(t.best_point),
      data<int64_t>(t.prediction)};
}

// The operation as the dispatcher calls it: what has been checked goes to
// run(SelectArguments<T, L>, SelectTensors), T the type of value, L that of logits.
template <auto run>
void select(
    Tensor point,
    Tensor logits,
    Tensor value,
    Tensor certainty,
    int64_t starts,
    Tensor row,
    Tensor winner,
    Tensor best_point,
    Tensor prediction) {
  const SelectTensors tensors{
      point, logits, value, certainty, starts, row, winner, best_point, prediction};
  check_select(tensors);
  with_logit_type(logits, [&]<typename L>(L) {
    with_floating_type(
        value, [&]<typename T>(T) { run(select_arguments<T, L>(tensors), tensors); });
  });
}

}  // namespace hcnn_fast
