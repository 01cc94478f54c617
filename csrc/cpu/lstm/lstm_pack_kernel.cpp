// A layer's weights into panels once for many calls, compiled once per instruction set. Limit: the way to memory and
// back. Every panel goes to whichever thread is free.
#include "layer_panels.h"
#include "lstm_steps.h"

namespace ulmfit_fast::ULMFIT_ISA {
namespace {

// Rows of a weight on their way into a panel, converted.
template <typename E>
int64_t buffer_elements(const LstmSizes& sizes) {
  return kLanes<E> * larger(sizes.output, sizes.input);
}

}  // namespace

template <typename E>
int64_t packed_bytes(const LstmSizes& sizes) {
  return LayerPanels<E>().carve(sizes, /*with_input=*/true, nullptr);
}

template <typename E>
int64_t pack_scratch(const LstmPack<E>& args) {
  Carver carver(nullptr);
  for (int64_t slice = 0; slice < args.slices; ++slice) carver.take<E>(buffer_elements<E>(args.sizes));
  return carver.taken();
}

template <typename E>
void pack(const LstmPack<E>& args, Member member) {
  const LstmSizes& s = args.sizes;
  Carver carver(args.scratch);
  E* buffer = nullptr;
  for (int64_t slice = 0; slice <= member.first; ++slice) buffer = carver.take<E>(buffer_elements<E>(s));
  LayerPanels<E> panels;
  panels.carve(s, /*with_input=*/true, args.packed);
  const int64_t gate_panels = column_vectors<E>(s.hidden);
  // Cut for the whole width, as PanelSet cuts it for a slice: a column vector's words stand at the same place.
  const PanelSet<E> projection = {panels.projection, s.hidden, 0, s.projected ? column_vectors<E>(s.output) : 0};
  member.share(2 * gate_panels + (s.projected ? projection.count() : 0), [&](int64_t i) {
    if (i < gate_panels)
      pack_gate_panel<E>(gate_panel<E>(panels.input, i, s.input), {args.weight_ih, s.input, {}, buffer}, s.hidden,
                         i * kLanes<E>);
    else if (i < 2 * gate_panels)
      pack_gate_panel<E>(gate_panel<E>(panels.recurrent, i - gate_panels, s.output),
                         {args.weight_hh, s.output, {}, buffer}, s.hidden, (i - gate_panels) * kLanes<E>);
    else
      pack_projection_panel(projection, i - 2 * gate_panels, args.weight_hr, s);
  });
}

#define ULMFIT_INSTANTIATE(E)                           \
  template int64_t packed_bytes<E>(const LstmSizes&);   \
  template int64_t pack_scratch<E>(const LstmPack<E>&); \
  template void pack<E>(const LstmPack<E>&, Member);
ULMFIT_INSTANTIATE(float)
ULMFIT_INSTANTIATE(double)
ULMFIT_INSTANTIATE(Bfloat16)

}  // namespace ulmfit_fast::ULMFIT_ISA
