// SPDX-License-Identifier: GPL-2.0-only
// Parameters as gui/paramtree.h has them, saved and restored as gui/siminterface.cc does.
#ifndef STAND_IN_SIMINTERFACE_H
#define STAND_IN_SIMINTERFACE_H

#include <fstream>
#include <memory>
#include <string>
#include <vector>

#define BASE_DEC 10
#define BASE_HEX 16

class bx_list_c;

// A list keeps what it was made the parent of.
class bx_param_c {
public:
	const std::string name;

	inline bx_param_c(bx_param_c *parent, const char *its_name);
	virtual ~bx_param_c() = default;
	virtual void save(std::ostream &to) = 0;
	virtual void restore(const std::string &text, std::istream &from) = 0;
};

class bx_list_c : public bx_param_c {
public:
	typedef void (*list_restore_handler)(void *, bx_list_c *);

	std::vector<std::unique_ptr<bx_param_c>> items;
	list_restore_handler handler = nullptr;
	void *device = nullptr;

	bx_list_c(bx_param_c *parent, const char *its_name) : bx_param_c(parent, its_name) {}
	void set_restore_handler(void *its_device, list_restore_handler its_handler)
	{
		device = its_device;
		handler = its_handler;
	}
	void save(std::ostream &to) override
	{
		to << name << " = {\n";
		for (auto &item : items)
			item->save(to);
		to << "}\n";
	}
	void restore(const std::string &, std::istream &from) override
	{
		std::string word, equals, value;

		while (from >> word && word != "}") {
			from >> equals >> value;
			bx_param_c *item = find(word);
			if (!item)
				genlog->panic("cannot find param '%s'!", word.c_str());
			item->restore(value, from);
		}
		if (from && handler)
			handler(device, this);
	}

private:
	bx_param_c *find(const std::string &its_name)
	{
		for (auto &item : items)
			if (item->name == its_name)
				return item.get();
		return nullptr;
	}
};

inline bx_param_c::bx_param_c(bx_param_c *parent, const char *its_name) : name(its_name)
{
	if (parent)
		static_cast<bx_list_c *>(parent)->items.emplace_back(this);
}

class bx_shadow_num_c : public bx_param_c {
public:
	template <typename T>
	bx_shadow_num_c(bx_param_c *parent, const char *its_name, T *its_real, int its_base = BASE_DEC)
		: bx_param_c(parent, its_name), real(its_real), size(sizeof(T)), base(its_base)
	{
	}
	void save(std::ostream &to) override
	{
		Bit64u value = 0;

		memcpy(&value, real, size);
		to << name << " = " << (base == BASE_HEX ? "0x" : "") << (base == BASE_HEX ? std::hex : std::dec)
		   << value << std::dec << "\n";
	}
	void restore(const std::string &text, std::istream &) override
	{
		Bit64u value = std::stoull(text, nullptr, 0);

		memcpy(real, &value, size);
	}

private:
	void *real;
	size_t size;
	int base;
};

class bx_shadow_bool_c : public bx_shadow_num_c {
public:
	bx_shadow_bool_c(bx_param_c *parent, const char *its_name, bool *its_real)
		: bx_shadow_num_c(parent, its_name, its_real)
	{
	}
};

class bx_param_string_c {
public:
	const char *getptr() { return value.c_str(); }

	std::string value;
};

// Each list below the root has a file of its name in the folder of a saved machine.
class bx_simulator_interface_c {
public:
	bx_list_c *get_bochs_root() { return &root; }
	// The one parameter that the parts ask for.
	bx_param_string_c *get_param_string(const char *its_name)
	{
		return strcmp(its_name, "ports.parallel.1.file") ? nullptr : &parallel_file;
	}
	bx_param_string_c parallel_file;
	bool save_state(const char *folder)
	{
		for (auto &list : root.items) {
			std::ofstream file(path(folder, *list));
			list->save(file);
			if (!file.flush())
				return false;
		}
		return true;
	}
	bool restore_hardware(const char *folder)
	{
		for (auto &list : root.items) {
			std::ifstream file(path(folder, *list));
			std::string name, equals, brace;

			if (!file)
				return false;
			if (file >> name >> equals >> brace)
				list->restore(brace, file);
		}
		return true;
	}

private:
	bx_list_c root{ nullptr, "bochs" };

	static std::string path(const char *folder, const bx_param_c &list)
	{
		return std::string(folder) + "/" + list.name;
	}
};

inline bx_simulator_interface_c the_simulator, *SIM = &the_simulator;

#endif
