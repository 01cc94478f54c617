#pragma once  // in emulation.h
